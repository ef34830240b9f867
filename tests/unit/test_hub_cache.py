"""The folder of downloads is that of Hugging Face's own programs: what either has downloaded, the other finds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import COMMIT, Hub, hub_of
from tests.unit.hub_user import WANTED, WEIGHTS, User, succeeds


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(dict(WANTED)) as running:
        yield running


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(tmp_path, hub.url)


def test_other_programs_find_what_was_downloaded(hub: Hub, user: User) -> None:
    folder = succeeds(user.pull())
    hub.hangs_up = True
    user.more = {"HF_HUB_OFFLINE": "1"}
    print_folder = "from huggingface_hub import snapshot_download; print(snapshot_download('someone/model'))"
    assert user.python(print_folder) == str(folder)


def test_what_other_programs_downloaded_is_found(hub: Hub, user: User) -> None:
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('someone/model', allow_patterns={}))"
    folder = user.python(code.format(["*.json", "*.safetensors"]))
    hub.asked.clear()
    assert succeeds(user.pull()) == Path(folder)
    assert hub.asked == []


def test_a_download_of_what_transformers_5_has_saved_is_found(tmp_path: Path) -> None:
    files = dict(WANTED)
    files["processor_config.json"] = b'{"image_processor": %s}' % files.pop("preprocessor_config.json")
    with hub_of(files) as hub:
        user = User(tmp_path, hub.url)
        folder = user.python("from huggingface_hub import snapshot_download; print(snapshot_download('someone/model'))")
        hub.asked.clear()
        assert succeeds(user.pull()) == Path(folder)
        assert hub.asked == []


def test_what_other_programs_downloaded_in_part_is_completed(hub: Hub, user: User) -> None:
    """vLLM and transformers look at a model's config before anything else."""
    user.python("from huggingface_hub import hf_hub_download; hf_hub_download('someone/model', 'config.json')")
    hub.asked.clear()
    succeeds(user.pull())
    assert user.files() == WANTED


def test_a_damaged_file_of_another_program_is_replaced(user: User) -> None:
    user.python("from huggingface_hub import hf_hub_download; hf_hub_download('someone/model', 'model.safetensors')")
    blob = (user.cache / "snapshots" / COMMIT / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"x")
    succeeds(user.pull())
    assert user.files() == WANTED
