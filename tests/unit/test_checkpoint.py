"""A checkpoint folder: its size read off real files, and every way of being broken refused in words."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from serving.errors import CheckpointError
from serving.hub import resolve_model
from serving.models.checkpoint import Checkpoint, read_checkpoint
from serving.models.files import Folder
from serving.models.tensors import Tensor, read_header

DEMO = resolve_model("demo").folder
CONFIG: dict[str, Any] = {"architectures": ["Qwen3VLForConditionalGeneration"], "vision_config": {}, "text_config": {}}
PIXELS = {"size": {"shortest_edge": 4096, "longest_edge": 65536}}
SHARD = save({"lm_head.weight": np.zeros((8, 4), np.float16), "visual.patch.weight": np.zeros((2, 3), np.float32)})
HEADER = 8 + struct.unpack("<Q", SHARD[:8])[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two small tensors."""
    return checkpoint_in(tmp_path, SHARD)


def checkpoint_in(folder: Path, weights: bytes | None) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS), encoding="utf-8")
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def size_of(checkpoint: Checkpoint) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.tensors.values())


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(Folder(folder))
    assert caught.value.exit_code == 5
    assert str(folder) in str(caught.value)
    return str(caught.value)


def outcome(folder: Path) -> Checkpoint | CheckpointError:
    """What reading it comes to; any other exception is a failure."""
    try:
        return read_checkpoint(Folder(folder))
    except CheckpointError as error:
        return error


def test_each_tensor_is_known_with_its_size(folder: Path) -> None:
    found = read_checkpoint(Folder(folder))
    assert {name: tensor.nbytes for name, tensor in found.tensors.items()} == {
        "lm_head.weight": 8 * 4 * 2,
        "visual.patch.weight": 2 * 3 * 4,
    }
    assert (found.architecture, found.min_pixels, found.max_pixels) == (CONFIG["architectures"][0], 4096, 65536)


def test_each_tensor_is_known_by_its_type_shape_and_bytes(folder: Path) -> None:
    assert read_header(Folder(folder), "model.safetensors") == {
        "lm_head.weight": Tensor("F16", (8, 4), 64),
        "visual.patch.weight": Tensor("F32", (2, 3), 24),
    }


def test_a_header_longer_than_the_first_read_is_read_to_its_end(tmp_path: Path) -> None:
    entries = {f"{'x' * 100}{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(5_000)}
    checkpoint_in(tmp_path, with_header(entries))
    assert (tmp_path / "model.safetensors").stat().st_size > 2 * 256 * 1024
    assert len(read_header(Folder(tmp_path), "model.safetensors")) == 5_000


def test_a_type_newer_than_this_project_counts_by_its_bytes(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, with_header({"a": {"dtype": "F3", "shape": [8], "data_offsets": [0, 3]}}, b"123"))
    assert size_of(read_checkpoint(Folder(tmp_path))) == 3


def test_the_built_in_model_is_within_what_it_promises() -> None:
    found = read_checkpoint(Folder(DEMO))
    assert found.architecture == "Qwen3VLForConditionalGeneration"
    assert 0 < size_of(found) < 20_000_000
    assert size_of(found) <= (DEMO / "model.safetensors").stat().st_size


def test_shards_are_added_up_and_a_missing_one_is_named(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, None)
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    for name, tensor in zip(names, ("a", "b"), strict=True):
        (tmp_path / name).write_bytes(save({tensor: np.zeros(100, np.float32)}))
    index = {"metadata": {}, "weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert size_of(read_checkpoint(Folder(tmp_path))) == 800
    (tmp_path / names[1]).unlink()
    assert f"{names[1]} is missing" in refusal(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": ["x"]}, {"a": None}])
def test_a_broken_index_is_refused(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert "weight_map" in refusal(folder)


def test_a_folder_without_weights_is_known_as_such(tmp_path: Path) -> None:
    assert read_checkpoint(Folder(checkpoint_in(tmp_path, None))).tensors == {}


def test_what_is_no_folder_is_refused_with_what_model_takes(tmp_path: Path) -> None:
    assert "a local folder, a Hub id" in refusal(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "There is no model folder" in refusal(tmp_path / "file")


def test_a_text_model_is_refused_by_its_name(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    message = refusal(folder)
    assert "not a vision-language model" in message
    assert "LlamaForCausalLM" in message


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'"text"'])
def test_a_broken_json_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_missing_json_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"has no {name}" in refusal(folder)


@pytest.mark.parametrize(
    "size",
    [
        None, {}, {"height": 224, "width": 224}, {"shortest_edge": "1", "longest_edge": 2}, {"shortest_edge": 0},
        {"shortest_edge": 1, "longest_edge": 1},
    ],
)  # fmt: skip
def test_a_processor_without_pixel_bounds_is_refused(folder: Path, size: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    assert "shortest_edge" in refusal(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": {}, "architectures": "Qwen"},
        {"vision_config": {}, "architectures": {}},
        {"vision_config": {}, "architectures": 7},
        {"vision_config": {}, "architectures": None, "model_type": "qwen3_vl"},
    ],
)
def test_an_odd_architecture_is_no_reason_to_crash(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    assert isinstance(read_checkpoint(Folder(folder)), Checkpoint)


def test_a_text_config_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"text_config": "none"}))
    assert "text_config" in refusal(folder)


@given(st.integers(0, len(SHARD) - 1))
def test_weights_cut_off_at_any_byte_are_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    folder = checkpoint_in(tmp_path_factory.mktemp("cut", numbered=True), SHARD[:length])
    assert "Download it again" in refusal(folder)


@given(st.binary(min_size=1, max_size=64))
def test_weights_with_something_behind_them_are_refused(
    tmp_path_factory: pytest.TempPathFactory, behind: bytes
) -> None:
    refusal(checkpoint_in(tmp_path_factory.mktemp("longer", numbered=True), SHARD + behind))


@given(st.integers(0, HEADER - 1), st.integers(0, 255))
def test_a_changed_byte_of_the_header_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    changed = SHARD[:place] + bytes([byte]) + SHARD[place + 1 :]
    folder = checkpoint_in(tmp_path_factory.mktemp("changed", numbered=True), changed)
    found = outcome(folder)
    if isinstance(found, Checkpoint):
        assert found.tensors
        assert 0 <= size_of(found) <= len(SHARD)
    else:
        assert "model.safetensors" in str(found)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
_TENSORS = st.dictionaries(st.text(max_size=4), st.fixed_dictionaries({"data_offsets": _JSON}), min_size=1)


@given(_JSON | _TENSORS)
def test_a_header_of_any_json_is_refused_or_means_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, header: Any
) -> None:
    folder = checkpoint_in(tmp_path_factory.mktemp("json", numbered=True), with_header(header))
    found = outcome(folder)
    if isinstance(found, Checkpoint):
        assert size_of(found) == 0  # there is no byte behind the header
    else:
        assert "Download it again" in str(found)


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        with_header(b"[" * 100_000),
        with_header({"a": {"data_offsets": [4, 0]}}, b"1234"),
        with_header({"a": {"data_offsets": [-4, 4]}}, b"1234"),
        with_header({"a": {"data_offsets": [0.0, 4.0]}}, b"1234"),
        with_header({"a": {"data_offsets": [0, 4, 4]}}, b"1234"),
        with_header({"a": {"data_offsets": [0, 4]}}, b"1234"),
        with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        with_header({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, b"1234"),
        with_header({"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}}, b"1234"),
        with_header({"a": {"dtype": 32, "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, weights: bytes) -> None:
    assert "model.safetensors is broken or cut off" in refusal(checkpoint_in(tmp_path, weights))


def test_weights_that_cannot_be_read_are_refused(folder: Path) -> None:
    """A folder of that name, and a link whose target a clearing of the hub's cache has taken away."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "model.safetensors cannot be read" in refusal(folder)
    (folder / "model.safetensors").rmdir()
    (folder / "model.safetensors").symlink_to(folder / "gone")
    assert "model.safetensors cannot be read: No such file" in refusal(folder)


def test_older_processors_name_their_bounds_otherwise(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, None)
    bounds = {"min_pixels": 3136, "max_pixels": 12_845_056}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(bounds), encoding="utf-8")
    found = read_checkpoint(Folder(tmp_path))
    assert (found.min_pixels, found.max_pixels) == (3136, 12_845_056)


def test_a_processor_as_transformers_5_saves_it_is_read_and_comes_first(folder: Path) -> None:
    whole = {
        "processor_class": "Qwen3VLProcessor",
        "image_processor": {"size": {"shortest_edge": 1024, "longest_edge": 2048}},
    }
    (folder / "processor_config.json").write_text(json.dumps(whole), encoding="utf-8")
    assert read_checkpoint(Folder(folder)).max_pixels == 2048
    (folder / "preprocessor_config.json").unlink()
    assert read_checkpoint(Folder(folder)).max_pixels == 2048


def test_an_older_processor_config_says_nothing_of_pictures(folder: Path) -> None:
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen2VLProcessor"}', encoding="utf-8")
    assert read_checkpoint(Folder(folder)).max_pixels == 65_536
    (folder / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refusal(folder)
