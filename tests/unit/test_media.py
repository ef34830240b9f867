"""The connector as vLLM finds it: its own registry, its own error type, its own cache keys."""

import asyncio
import base64
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from serving.hub import resolve_model
from serving.images.data_url import read_data_url
from serving.images.errors import UNREADABLE, ImageError
from serving.images.grid import Grid
from serving.images.seen import SeenSizes, collect_sizes
from serving.ipc.launch import ENVIRONMENT_KEY, Launch
from serving.media import PICTURES_ONLY, URLS_ARE_OFF, planned_grid, register_connector
from serving.prepare import prepare
from tests.drawing import encoded

DEMO = resolve_model("demo").folder
RED = encoded(Image.new("RGB", (640, 480), "red"))
Connect = Callable[..., Any]


def data_url(image: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def launch_of(folder: Path, *user_argv: str, model: Path = DEMO, allow_image_urls: bool = False) -> Launch:
    plan = prepare("cpu", str(model), gpu_memory_mib=8192, user_argv=user_argv).plan
    return Launch(
        plan=plan, model_folder=model, default_max_tokens=256, host="127.0.0.1", port=8000, run_dir=folder,
        user_argv=user_argv, allow_image_urls=allow_image_urls,
    )  # fmt: skip


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A connector as vLLM makes one for a request, in a server of that launch."""
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

    def made(*, allow_image_urls: bool = False, **settings: Any) -> Any:
        launch = launch_of(tmp_path, allow_image_urls=allow_image_urls)
        monkeypatch.setenv(ENVIRONMENT_KEY, str(launch.write()))
        register_connector()
        return MEDIA_CONNECTOR_REGISTRY.load("onecard", **settings)

    return made


def refusal(connector: Any, url: str) -> str:
    """What the client reads. vLLM answers 400 for this class of errors and for no other."""
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError) as refused:
        asyncio.run(connector.fetch_image_async(url))
    assert refused.value.parameter == "image_url"
    return str(refused.value)


def test_a_picture_reaches_vllm_on_the_grid(connect: Connect) -> None:
    connector = connect()
    picture = asyncio.run(connector.fetch_image_async(data_url(RED)))
    assert picture.media.shape == (3, 256, 352)
    assert picture.media[:, 0, 0].tolist() == [255, 0, 0]
    assert connector.fetch_image(data_url(RED)).media.shape == (3, 256, 352)


def test_vllm_sees_its_size_and_tells_pictures_apart(connect: Connect) -> None:
    from vllm.multimodal.hasher import MultiModalHasher
    from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataParser

    connector = connect()
    blue = encoded(Image.new("RGB", (640, 480), "blue"))
    first, second, again = (
        asyncio.run(connector.fetch_image_async(data_url(each, kind)))
        for each, kind in ((RED, "image/png"), (blue, "image/png"), (RED, "text/plain"))
    )
    items = MultiModalDataParser().parse_mm_data({"image": [first]})["image"]
    assert isinstance(items, ImageProcessorItems)
    assert tuple(items.get_image_size(0)) == (352, 256)
    keys = [MultiModalHasher.hash_kwargs("blake3", image=each) for each in (first, second, again)]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("declared", ["image/jpeg", "image/svg+xml", "application/pdf", "", "image/png;charset=utf-8"])
def test_the_declared_type_says_nothing(connect: Connect, declared: str) -> None:
    """Row 32."""
    picture = asyncio.run(connect().fetch_image_async(data_url(RED, declared)))
    assert picture.media.shape == (3, 256, 352)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png,abc", "data:", "data:image/png;base64", "data:image/png;base64,@@@@", "data:;base64,abc",
        "data:image/png;base64,aGVsbG8", "data:image/png;base64,é", "data:image/png;base64,aGVs\nbG8",
    ],
)  # fmt: skip
def test_broken_data_urls(connect: Connect, url: str) -> None:
    """Row 33: refused as the client's mistake, and by a sentence about base64."""
    assert "base64" in refusal(connect(), url)


@pytest.mark.parametrize(
    "url",
    [
        "DATA:image/PNG;BASE64,aGVsbG8=",
        "data:;base64,aGVs\nbG8=\n",
        "data:;base64,\r\naGVs\r\nbG8=",
        "data:;base64 ,aGVsbG8=",
    ],
)
def test_data_urls_in_any_case_and_in_lines(url: str) -> None:
    """`base64`, MIME and Python's `encodebytes` break the lines."""
    assert read_data_url(url) == b"hello"


def test_what_is_no_picture_is_one_sentence_to_the_client_and_its_cause_to_the_log(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows 25 and 26."""
    connector = connect()
    with caplog.at_level(logging.WARNING, "vllm.onecard"):
        for data in (b"", b"hello", b"%PDF-1.7", b"<svg/>", RED[:100]):
            assert refusal(connector, data_url(data)) == UNREADABLE
    assert [record.getMessage() for record in caplog.records][2].endswith("it begins with b'%PDF-1.7'")


@pytest.mark.parametrize(
    "url", ["http://example.com/x.png", "https://example.com/x.png", "file:///etc/passwd", "x.png", "", "ftp://x.y/z"]
)
def test_urls_are_off_until_switched_on(connect: Connect, url: str) -> None:
    message = refusal(connect(), url)
    assert message == URLS_ARE_OFF
    assert "--allow-image-urls" in message


def test_switched_on_they_go_through_the_same_gate(connect: Connect) -> None:
    """Row 37 in service: no address of this machine."""
    connector = connect(allow_image_urls=True)
    for url in ("http://127.0.0.1/x.png", "http://localhost/x.png", "file:///etc/passwd"):
        assert "could not be fetched" in refusal(connector, url)


def test_the_list_of_hosts_is_vllms_own_argument(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    connector = connect(allow_image_urls=True, allowed_media_domains=["Pictures.example.com"])
    with caplog.at_level(logging.WARNING, "vllm.onecard"):
        refusal(connector, "http://93.184.216.34/x.png")
    assert "not on the list" in caplog.text


def test_neither_video_nor_audio_is_fetched(connect: Connect) -> None:
    from vllm.exceptions import VLLMValidationError

    connector = connect(allow_image_urls=True)
    for fetch in (connector.fetch_video_async, connector.fetch_audio_async):
        with pytest.raises(VLLMValidationError, match=PICTURES_ONLY):
            asyncio.run(fetch("http://93.184.216.34/x"))
    for fetch in (connector.fetch_video, connector.fetch_audio):
        with pytest.raises(VLLMValidationError, match=PICTURES_ONLY):
            fetch(data_url(RED))


def test_sizes_come_in_the_order_of_the_request(connect: Connect) -> None:
    """The large one takes longest and comes first all the same."""
    connector = connect()
    pictures = [encoded(Image.new("RGB", size, "red")) for size in ((3000, 2000), (300, 300), (100, 400))]

    async def request() -> SeenSizes:
        seen = collect_sizes()
        await asyncio.gather(*(connector.fetch_image_async(data_url(picture)) for picture in pictures))
        return seen

    assert str(asyncio.run(request())) == "384x256, 288x288, 128x512"


def test_requests_do_not_see_each_others_sizes(connect: Connect) -> None:
    connector = connect()

    async def request(side: int) -> str:
        seen = collect_sizes()
        await connector.fetch_image_async(data_url(encoded(Image.new("RGB", (side, side), "red"))))
        return str(seen)

    async def both() -> list[str]:
        return await asyncio.gather(request(288), request(256))

    assert asyncio.run(both()) == ["288x288", "256x256"]


def test_the_grid_is_the_plans(tmp_path: Path) -> None:
    assert planned_grid(launch_of(tmp_path)) == Grid(32, min_pixels=65_536, max_pixels=102_400)


def test_the_users_own_size_is_the_processors_and_so_ours(tmp_path: Path) -> None:
    own = '{"size": {"shortest_edge": 4096, "longest_edge": 50000}}'
    launch = launch_of(tmp_path, "--mm-processor-kwargs", own)
    assert planned_grid(launch) == Grid(32, min_pixels=4096, max_pixels=50_000)


def test_what_else_the_user_tells_the_processor_leaves_resizing_to_it(tmp_path: Path) -> None:
    told = '{"size": {"shortest_edge": 4096, "longest_edge": 50000}, "do_resize": false}'
    assert planned_grid(launch_of(tmp_path, "--mm-processor-kwargs", told)) is None


def test_another_familys_processor_resizes_itself(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    processor = model / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("Qwen2VLImageProcessorFast", "Glm4vImageProcessor"))
    assert planned_grid(launch_of(tmp_path, model=model)) is None


def test_the_grid_is_that_of_a_model_saved_by_transformers_5(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    AutoProcessor.from_pretrained(DEMO).save_pretrained(tmp_path / "saved")
    (model / "preprocessor_config.json").unlink()
    shutil.copy(tmp_path / "saved" / "processor_config.json", model)
    assert planned_grid(launch_of(tmp_path, model=model)) == planned_grid(launch_of(tmp_path))


def test_a_refusal_keeps_its_cause_apart() -> None:
    assert ImageError(cause="host 10.0.0.1 said no").cause != str(ImageError(cause="host 10.0.0.1 said no"))
