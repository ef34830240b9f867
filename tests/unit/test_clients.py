"""What the clients decide without a server: what is sent of a picture, where boxes are, what a batch takes and refuses."""

import base64
import contextlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clients import PictureError, locate
from clients.batch.inputs import read_batch
from clients.batch.journal import Journal
from clients.errors import AnswerError, InputError
from clients.images import data_url
from clients.limits import Limits, limits_of
from clients.messages import messages
from clients.schema import response_format
from serving.machine.port import free_port
from tests import drawing
from tests.conftest import ONECARD


def seen(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_small_picture_is_sent_as_it_is_and_a_large_one_shrunk() -> None:
    photo = drawing.encoded(drawing.blank(640, 480), "JPEG")
    assert base64.b64decode(data_url(photo, 640 * 480).partition(",")[2]) == photo
    small = seen(data_url(photo, 100_000))
    assert 95_000 < small.width * small.height <= 100_000
    assert small.width / small.height == pytest.approx(4 / 3, abs=0.02)


def test_a_picture_is_sent_upright_and_on_white() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        sent = seen(data_url(drawing.encoded(drawing.blank(40, 20), kind, exif=turned)))
        assert (sent.size, sent.getexif()) == ((20, 40), {})
    assert seen(data_url(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((1, 1)) == (255, 255, 255)


def test_grey_of_sixteen_bits_keeps_its_tones() -> None:
    tones = numpy.linspace(0, 65535, 64, dtype="uint16").reshape(1, 64).repeat(64, axis=0)
    grey = Image.fromarray(tones)
    sent = seen(data_url(drawing.encoded(grey), max_pixels=1024)).convert("L")
    assert [sent.getpixel((x, 16)) for x in (0, 16, 31)] == pytest.approx([2, 131, 253], abs=3)
    with pytest.raises(PictureError, match="no brightness range"):
        data_url(drawing.encoded(grey, "TIFF"))


def test_heic_and_the_pages_of_a_pdf(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    drawing.blank(64, 48, "red").save(tmp_path / "photo.heic")
    assert seen(data_url(tmp_path / "photo.heic")).size == (64, 48)
    pages = [drawing.blank(200, 100, color) for color in ("red", "green")]
    pages[0].save(tmp_path / "doc.pdf", save_all=True, append_images=pages[1:])
    (message,) = messages(str(tmp_path / "doc.pdf"), "What?", Limits(max_pixels=10_000))
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    assert texts == ["Page 1:", "Page 2:", "What?"]
    (message,) = messages(str(tmp_path / "doc.pdf#page=2"), "What?", Limits(max_pixels=10_000))
    page = seen(message["content"][0]["image_url"]["url"])
    assert page.getpixel((20, 20))[1] > 100  # type: ignore[index]
    assert page.width * page.height <= 10_000
    with pytest.raises(PictureError, match="has 2 pages"):
        messages(str(tmp_path / "doc.pdf#page=3"), "What?", Limits())


def test_a_page_that_is_broken_is_told(tmp_path: Path) -> None:
    """The document opens: only whoever wants that page finds it missing."""
    drawing.blank(200, 200).save(tmp_path / "doc.pdf")
    whole = (tmp_path / "doc.pdf").read_bytes()
    assert whole.count(b"/Type /Page\n") == 1
    (tmp_path / "doc.pdf").write_bytes(whole.replace(b"/Type /Page\n", b"/Type /Rage\n"))
    with pytest.raises(PictureError, match=r"doc\.pdf cannot be read as a PDF \(Failed to load page"):
        messages(str(tmp_path / "doc.pdf#page=1"), "What?", Limits())


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (b"no picture", "no picture of a known kind"),
        (drawing.encoded(drawing.blank(300, 300, "red"), "JPEG")[:400], "broken"),
        (numpy.zeros((4, 4, 3), "float32"), "float32"),
        (numpy.zeros((4,), "uint8"), "uint8 of"),
        ("data:image/png;base64,%%", "base64"),
        ("http://127.0.0.1:1/x.png", "could not be fetched"),  # nothing listens there
    ],
)
def test_what_is_no_picture_is_told(picture: Any, says: str) -> None:
    with pytest.raises(PictureError, match=says):
        data_url(picture)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("http://127.0.0.1:1/doc.pdf", "could not be fetched"),
        ("scan", "scan is a PDF: its pages are read from a file whose name ends with .pdf"),
        ("doc.pdf#page=0", "has 1 pages"),
    ],
)
def test_a_pdf_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    drawing.blank(200, 200).save("doc.pdf")
    Path("scan").write_bytes(Path("doc.pdf").read_bytes())
    with pytest.raises(PictureError, match=says):
        messages(name, "What?", Limits())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("max_pixels", [None, 400])
def test_broken_exif_is_no_reason_to_refuse(kind: str, max_pixels: int | None) -> None:
    picture = drawing.encoded(drawing.blank(40, 20, "red"), kind, exif=b"Exif\0\0garbage of a phone")
    assert seen(data_url(picture, max_pixels)).getpixel((10, 5))[0] > 250  # type: ignore[index]


@given(
    kind=st.sampled_from(["PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    holes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_of_a_broken_file_a_picture_is_made_or_its_name_told(kind: str, holes: list[tuple[float, int]]) -> None:
    """Whatever Pillow's decoders trip over: one file must not end a batch."""
    data = bytearray(drawing.encoded(drawing.blank(40, 20, "red"), kind))
    for place, byte in holes:
        data[int(place * len(data))] = byte
    for max_pixels in (None, 400):
        with contextlib.suppress(PictureError):
            data_url(bytes(data), max_pixels)


def test_limits_come_from_the_status_and_of_others_nothing_is_assumed() -> None:
    limits = {"max_image_pixels": 102400, "max_images_per_request": 4}
    status = {"limits": limits, "plan": {"capacity": {"max_num_seqs": 16, "concurrent_images": 8}}}
    assert limits_of(status) == Limits(102400, 4, concurrency=10)
    assert limits_of("<html>") == limits_of({"limits": 3}) == Limits()


def test_boxes_are_in_the_pixels_of_the_original() -> None:
    answer = '[{"bbox_2d": [100, 500, 200, 1000], "label": "cat"}]'
    whole = drawing.blank(2000, 1000)
    (box,) = locate.Task.of(whole, "qwen3-vl-2b", None).boxes(answer)
    assert box == locate.Box("cat", 200, 500, 400, 1000)
    task = locate.Task.of(whole, "Qwen/Qwen2.5-VL-3B-Instruct", 400_000)
    assert all(side % 28 == 0 for side in task.picture.size)
    assert task.picture.width * task.picture.height <= 400_000
    width, height = task.picture.size
    (box,) = task.boxes(json.dumps([{"bbox_2d": [0, 0, width, height], "label": "all"}]))
    assert box == locate.Box("all", 0, 0, 2000, 1000)
    for bad in ("there", "{}", '[{"bbox_2d": [1, 2]}]'):
        with pytest.raises(AnswerError, match="did not answer"):
            task.boxes(bad)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "is not JSON"),
        ("nowhere.json", "nor a file that can be read .No such file"),
        ("[1]", "neither a JSON schema"),
        ('{"type": "objekt"}', "not a JSON schema: 'objekt'"),
        ('{"type": 3}', "not a JSON schema: 3"),
        ('{"colour": "red"}', "asks for nothing"),
    ],
)
def test_a_schema_that_is_none_is_refused(bad: str, says: str) -> None:
    with pytest.raises(InputError, match=f"--schema: .*{says}"):
        response_format(bad)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "name,price\na,3\n", "no column `image`.* it has name, price"),
        ("t.csv", "id,image\n1,a.png\n1,b.png\n", "is the id of several"),
        ("t.csv", "image\n", "nothing to ask"),
        ("t.csv", 'image,note\n"",x\n', "line 2: the column `image` is empty"),
        ("t.jsonl", '{"image": "a.png"}\n{"image"\n', "line 2: not JSON"),
        ("t.jsonl", '{"custom_id": "1", "url": "/v1/embeddings", "body": {}}\n', "only chat completions"),
        ("t.jsonl", '{"image": "a.png"}\n{"price": 3}\n', "line 2 has no column `image`.* it has price"),
        ("t.jsonl", '{"image": 3}\n', "line 1: the picture is not named by a string"),
        ("t.csv", "", "no column `image`.* it has none"),
        ("t.txt", "a.png\n", "a batch is a folder"),
    ],
)
def test_a_batch_that_cannot_be_asked_is_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says):
        read_batch(tmp_path / name, "What?")


def test_a_journal_forgets_the_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl.journal"
    with Journal(file, {"prompt": "What?"}) as journal:
        journal.add({"id": "a", "answer": "red", "error": None})
        journal.add({"id": "b", "answer": None, "error": "broken"})
        with pytest.raises(InputError, match="Another"):
            Journal(file, {"prompt": "What?"})
    with file.open("ab") as stream:
        stream.write(b'{"id": "c", "ans')
    with Journal(file, {"prompt": "What?"}) as journal:
        assert (journal.answered, journal.failed) == ({"a"}, {"b"})
        journal.add({"id": "b", "answer": "blue", "error": None})
    with Journal(file, {"prompt": "What?"}) as journal:
        assert journal.answered == {"a", "b"}
        assert journal.get("b") == {"id": "b", "answer": "blue", "error": None}
    with pytest.raises(InputError, match=r"another run \(prompt differ\)"):
        Journal(file, {"prompt": "Else?"})


@pytest.mark.parametrize("found", ["notes of mine\n", "notes of mine", '{"answer": "red"}\n', "[]\n"])
def test_a_file_of_somebody_elses_is_no_journal_and_stays(tmp_path: Path, found: str) -> None:
    file = tmp_path / "out.jsonl.journal"
    file.write_text(found)
    with pytest.raises(InputError, match="is not the journal of a batch"):
        Journal(file, {"prompt": "What?"})
    assert file.read_text() == found


def test_a_journal_that_was_damaged_in_the_middle_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl.journal"
    with Journal(file, {"prompt": "What?"}) as journal:
        journal.add({"id": "a", "answer": "red", "error": None})
    with file.open("a") as stream:
        stream.write('{"id": "b", "ans\n')
    with pytest.raises(InputError, match="damaged at byte"):
        Journal(file, {"prompt": "What?"})


def test_a_link_that_leads_nowhere_is_of_the_batch_and_fails_alone(tmp_path: Path) -> None:
    drawing.blank(32, 32).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("nowhere.png")
    (tmp_path / "folder.png").mkdir()
    assert [item.id for item in read_batch(tmp_path, "What?").items] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, ["batch", "EMPTY", "--out", "r.jsonl", "--prompt", "?"], "nothing to ask"),
        (2, ["batch", "nowhere", "--out", "r.jsonl", "--prompt", "?"], "neither a folder nor a file"),
        (2, ["batch", "FULL", "--out", "r.txt", "--prompt", "?"], ".jsonl or .csv"),
        (2, ["batch", "FULL", "--out", "r.jsonl"], "without a question"),
        (2, ["batch", "FULL", "--out", "OTHER", "--prompt", "?"], "not of a run that can go on"),
        (11, ["batch", "FULL", "--out", "r.jsonl", "--prompt", "?"], "No server answers"),
        (2, ["ask", "OTHER", "?"], "no picture of a known kind"),
        (11, ["ask", "FULL/a[1].png", "?"], "No server answers"),
        (2, ["ask", "FULL/[ab]1.png", "?"], "FULL/a1.png cannot be read as a picture"),
        (2, ["ask", "FULL/a.png", "?", "--schema", "{"], "is not JSON"),
    ],
)
def test_a_refusal_on_the_command_line(tmp_path: Path, code: int, arguments: list[str], says: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FULL").mkdir()
    drawing.blank(32, 32).save(tmp_path / "FULL" / "a.png")
    drawing.blank(32, 32).save(tmp_path / "FULL" / "a[1].png")
    (tmp_path / "FULL" / "a1.png").write_text("which `a[1].png` is too, as a pattern")
    (tmp_path / "OTHER").write_text("mine")
    (tmp_path / "OTHER").rename(tmp_path / "other.jsonl")
    words = [word.replace("OTHER", "other.jsonl") for word in arguments]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [*ONECARD, *words, "--port", str(free_port())], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
