"""LoRA adapters: what their folders say, what their slots take, and what is refused before anything is loaded."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import CheckpointError, UsageError
from serving.models.architecture import read_shape
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.planning import memory
from serving.planning.adapters import read_adapters
from serving.planning.describe import describe_plan
from serving.planning.memory import MIB, Slots
from serving.planning.profile import shape_dir
from serving.prepare import Prepared, prepare
from tests.adapter import write_adapter, write_safetensors

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head")


def prepared(*adapters: str, more: tuple[str, ...] = ()) -> Prepared:
    return prepare("cpu", "demo", gpu_memory_mib=16_000, user_argv=("--lora-modules", *adapters, *more))


def test_adapters_are_planned_and_served_under_names_of_their_own(tmp_path: Path) -> None:
    for name, rank in (("small", 4), ("large", 12)):
        write_adapter(tmp_path / name, rank)
    plan = prepared(f"small={tmp_path}/small", f"large={tmp_path}/large").plan
    assert plan.fits
    assert plan.adapters is not None
    assert (plan.adapters.names, plan.adapters.max_lora_rank) == (("small", "large"), 16)  # vLLM knows no rank of 12
    assert plan.engine_args["enable_lora"]
    assert (plan.engine_args["max_loras"], plan.engine_args["max_lora_rank"]) == (2, 16)
    assert plan.engine_args["lora_target_modules"] == ["q_proj", "v_proj"]
    assert plan.memory_mib.buffers >= plan.adapters.slots_mib > 0
    assert "Adapters: small, large; their slots of rank 16" in describe_plan(plan)


def test_an_embedding_that_an_adapter_changes_gets_a_slot_too(tmp_path: Path) -> None:
    write_adapter(tmp_path / "it")
    name = "base_model.model.model.language_model.embed_tokens"
    tensors = {f"{name}.lora_embedding_A": (4, 2048, 0.1), f"{name}.lora_embedding_B": (256, 4, 0.1)}
    write_safetensors(tmp_path / "it" / "adapter_model.safetensors", tensors, random.Random(0))
    (adapter,) = read_adapters(f"it={tmp_path}/it")
    assert adapter.modules == {"embed_tokens"}


def test_a_profile_names_adapters_and_the_command_line_others(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b")
    profile = tmp_path / "mine.yaml"
    shipped = Path(__file__).parents[2] / "configs" / "profiles" / "cpu.yaml"
    profile.write_text(shipped.read_text(encoding="utf-8") + f"lora_modules: [a={tmp_path}/a]\n", encoding="utf-8")
    by_profile, by_command = (
        prepare(str(profile), None, gpu_memory_mib=16_000, user_argv=argv).plan.adapters
        for argv in ((), ("--lora-modules", json.dumps({"name": "b", "path": f"{tmp_path}/b"})))
    )
    assert by_profile
    assert by_command
    assert (by_profile.names, by_command.names) == (("a",), ("b",))


def test_the_slots_of_qwen3_vl_2b_are_those_that_vllm_makes() -> None:
    """28 layers of 2048 wide, 16 heads and 8 KV heads of 128, 6144 inside; two slots of rank 16."""
    folder = shape_dir("qwen3-vl-2b")
    assert folder is not None
    checkpoint = read_checkpoint(Folder(folder))
    shape = read_shape(checkpoint.architecture, checkpoint.config)
    assert shape is not None
    merged = (3 * 2048 + 2048 + 1024 + 1024) + (2048 + 2048) + 2 * (2048 + 6144) + (6144 + 2048)
    layers = Slots(2, 16, frozenset(MODULES[:7]))
    assert memory.lora(shape.text, layers) == 2 * 16 * 28 * merged * 2
    whole = Slots(2, 16, None)
    assert memory.lora(shape.text, whole) == 2 * 16 * (28 * merged + 2 * (151_936 + 2048)) * 2
    assert 60 < memory.lora(shape.text, layers) / MIB < 80


@given(st.integers(1, 8), st.sampled_from((8, 16, 64)), st.sets(st.sampled_from(MODULES)), st.sampled_from(MODULES))
def test_more_adapters_ranks_and_layers_never_need_less(count: int, rank: int, some: set[str], one: str) -> None:
    folder = shape_dir("qwen3-vl-2b")
    assert folder is not None
    checkpoint = read_checkpoint(Folder(folder))
    shape = read_shape(checkpoint.architecture, checkpoint.config)
    assert shape is not None
    fewer = Slots(count, rank, frozenset(some))
    for more in (
        Slots(count + 1, rank, frozenset(some)),
        Slots(count, 128, frozenset(some)),
        Slots(count, rank, frozenset({*some, one})),
    ):
        assert memory.lora(shape.text, more) >= memory.lora(shape.text, fewer)


def test_slots_without_adapters_are_planned_too() -> None:
    plan = prepare("rtx3060", None, user_argv=("--enable-lora", "--max-loras", "4", "--max-lora-rank", "64")).plan
    assert plan.adapters is not None
    assert plan.adapters.slots_mib > 500
    assert plan.memory_mib.kv_cache < prepare("rtx3060", None).plan.memory_mib.kv_cache


def test_an_adapter_of_another_model_is_refused_by_its_width(tmp_path: Path) -> None:
    write_adapter(tmp_path / "it")
    with pytest.raises(UsageError, match="trained for a model that is 256 wide, and this one is 2,048"):
        prepare("rtx3060", None, user_argv=("--lora-modules", f"it={tmp_path}/it"))


def broken(folder: Path, what: str) -> None:
    """An adapter with one thing wrong."""
    weights = folder / "adapter_model.safetensors"
    match what:
        case "no config":
            write_adapter(folder)
            (folder / "adapter_config.json").unlink()
        case "no weights":
            write_adapter(folder)
            weights.rename(folder / "adapter_model.bin")
        case "cut off":
            write_adapter(folder)
            weights.write_bytes(weights.read_bytes()[:-1])
        case "not JSON":
            write_adapter(folder)
            (folder / "adapter_config.json").write_text("{", encoding="utf-8")
        case "tower":
            write_adapter(folder)
            layer = "base_model.model.model.visual.blocks.0.attn.qkv"
            write_safetensors(weights, {f"{layer}.lora_A.weight": (4, 192, 0.1)}, random.Random(0))
        case "empty":
            write_adapter(folder)
            write_safetensors(weights, {"base_model.model.score.weight": (4, 192, 0.1)}, random.Random(0))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no config", "no adapter_config.json"),
        ("no weights", "no adapter_model.safetensors"),
        ("cut off", "broken or cut off"),
        ("not JSON", "adapter_config.json cannot be read"),
        ("tower", "changes the vision encoder"),
        ("empty", "holds no LoRA matrices"),
        ("nothing", "is no folder"),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused_by_what_is_wrong(tmp_path: Path, what: str, says: str) -> None:
    broken(tmp_path / "it", what)
    with pytest.raises(CheckpointError, match=says):
        read_adapters(f"it={tmp_path}/it")


def test_an_adapter_of_a_user_who_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"is no folder: .*/~nobody-here/it"):
        read_adapters("it=~nobody-here/it")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"r": 0}, "no usable rank"),
        ({"r": "8"}, "no usable rank"),
        ({"rank_pattern": {"q_proj": None}}, "no usable rank"),
        ({"r": 1024}, "of rank 1024, and vLLM takes 512 at most"),
        ({"rank_pattern": {"q_proj": 600}}, "of rank 600"),
        ({"peft_type": "IA3"}, "does not describe a LoRA adapter"),
        ({"use_dora": True}, "DoRA"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve_is_refused(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    write_adapter(tmp_path / "it", **config)
    with pytest.raises(CheckpointError, match=says):
        read_adapters(f"it={tmp_path}/it")


@pytest.mark.parametrize(
    ("adapters", "more", "says"),
    [
        (("it",), (), "is no `name=folder`"),
        (("=/x",), (), "is no `name=folder`"),
        (("it={0}", "it={0}"), (), "two adapters 'it'"),
        (("demo={0}",), (), "the model's own name"),
        (("it={0}",), ("--max-lora-rank", "1"), "an adapter here needs 8"),
        (("it={0}",), ("--max-lora-rank", "900"), "far beyond"),
        (("it={0}",), ("--max-loras", "0"), "--max-loras is 0"),
    ],
)
def test_names_and_limits_that_make_no_sense_are_refused(
    tmp_path: Path, adapters: tuple[str, ...], more: tuple[str, ...], says: str
) -> None:
    write_adapter(tmp_path / "it")
    with pytest.raises(UsageError, match=says):
        prepared(*(each.format(tmp_path / "it") for each in adapters), more=more)
