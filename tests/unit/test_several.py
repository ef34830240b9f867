"""Which models `onecard serve` offers, and what is refused before anything is loaded."""

import shutil
from pathlib import Path

import pytest
import yaml

from serving.errors import CheckpointError, DoesNotFitError, HardwareError, UsageError
from serving.machine.port import free_port
from serving.planning.profile import configs_dir
from serving.prepare import ServerOptions
from serving.several import make_launches, prepare_each

DEMO = Path(__file__).parents[2] / "serving" / "demo" / "model"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("ONECARD_API_KEY", raising=False)


def copied(folder: Path) -> Path:
    shutil.copytree(DEMO, folder)
    return folder


def options() -> ServerOptions:
    return ServerOptions("127.0.0.1", free_port())


def test_the_named_models_are_planned_each_for_itself_and_the_first_is_loaded(tmp_path: Path) -> None:
    twin = copied(tmp_path / "twin")
    both = prepare_each("cpu", None, f"demo, {twin}", gpu_memory_mib=8192)
    assert [each.plan.engine_args["served_model_name"] for each in both] == [["onecard-demo", "demo"], ["twin"]]
    asked, *_ = prepare_each("cpu", "demo", f"{twin},demo", gpu_memory_mib=8192)
    assert asked.plan.model == "demo"
    launches = make_launches(both, options())
    assert [launch.model_folder for launch in launches] == [DEMO, twin]


def test_without_a_list_there_is_one(tmp_path: Path) -> None:
    (one,) = prepare_each("cpu", None, None, gpu_memory_mib=8192)
    assert one.plan.model == "demo"
    # A profile may have the list.
    profile = yaml.safe_load((configs_dir() / "profiles" / "cpu.yaml").read_text())
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(profile | {"models": [str(copied(tmp_path / "twin"))]}))
    assert len(prepare_each(str(mine), None, None, gpu_memory_mib=8192)) == 2


def with_engine_args(file: Path, **args: object) -> str:
    profile = yaml.safe_load((configs_dir() / "profiles" / "cpu.yaml").read_text())
    file.write_text(yaml.safe_dump(profile | {"engine_args": profile["engine_args"] | args}))
    return str(file)


def test_what_a_profile_gives_to_vllm_is_held_to_the_same_as_what_follows_the_dashes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    for own in ("model", "api_key", "api_server_count", "middleware"):
        with pytest.raises(UsageError, match="is not for vLLM"):
            prepare_each(with_engine_args(mine, **{own: "x"}), None, None, gpu_memory_mib=8192)
    (foreign_code,) = prepare_each(with_engine_args(mine, trust_remote_code=True), None, None, gpu_memory_mib=8192)
    with pytest.raises(UsageError, match="--trust-remote-code runs Python that comes with the model"):
        make_launches([foreign_code], options())
    with pytest.raises(HardwareError, match="--tensor-parallel-size 2: so many cards"):
        prepare_each(with_engine_args(mine, tensor_parallel_size=2), None, None, gpu_memory_mib=8192)
    empty = tmp_path / "empty"
    shutil.copytree(DEMO, empty, ignore=shutil.ignore_patterns("*.safetensors"))
    dummy = prepare_each(with_engine_args(mine, load_format="dummy"), str(empty), None, gpu_memory_mib=8192)
    assert make_launches(dummy, options())


def test_what_a_name_could_mean_twice_is_refused(tmp_path: Path) -> None:
    folders = [copied(tmp_path / each / "same") for each in "ab"]
    both = prepare_each("cpu", None, ",".join(str(each) for each in folders), gpu_memory_mib=8192)
    with pytest.raises(UsageError, match="both served as 'same'"):
        make_launches(both, options())


def test_one_that_does_not_fit_is_refused_with_what_would() -> None:
    both = prepare_each("rtx3060", "qwen3-vl-2b-awq", "qwen3-vl-8b")
    with pytest.raises(DoesNotFitError, match="What would fit"):
        make_launches(both, options())


def test_one_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        prepare_each("cpu", None, "demo,/nowhere/at-all", gpu_memory_mib=8192)
