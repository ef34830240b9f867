"""Profiles and models: what ships loads, and what a user writes is either understood or refused in words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.matrix import plans
from serving.planning.profile import find_model, load_models, load_profile, load_profiles
from serving.schema import SCHEMAS, as_json

CONFIGS = Path(__file__).parents[2] / "configs"
PROFILES = sorted((CONFIGS / "profiles").glob("*.yaml"))
MODELS = sorted((CONFIGS / "models").glob("*.yaml"))
CPU = yaml.safe_load((CONFIGS / "profiles" / "cpu.yaml").read_text(encoding="utf-8"))


def written(folder: Path, content: Any) -> str:
    """A profile of the user's own, by its path."""
    file = folder / "mine.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(file)


def changed(where: str, value: Any) -> dict[str, Any]:
    """The `cpu` profile with one key set; `where` is `key` or `section.key`."""
    section, _, key = where.rpartition(".")
    inner = {**CPU[section], key: value} if section else value
    return {**CPU, (section or key): inner}


def without(where: str) -> dict[str, Any]:
    section, _, key = where.rpartition(".")
    owner = CPU[section] if section else CPU
    rest = {name: value for name, value in owner.items() if name != key}
    return {**CPU, section: rest} if section else rest


def refusal(folder: Path, content: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_profile(written(folder, content))
    assert caught.value.exit_code == 4
    return str(caught.value)


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_each_shipped_profile_loads_and_serves_a_shipped_model(file: Path) -> None:
    name, profile = load_profile(file.stem)
    assert name == file.stem
    assert profile.model in load_models()
    assert (profile.device == "cuda") == (profile.gpu is not None)


@pytest.mark.parametrize("file", MODELS, ids=lambda file: file.stem)
def test_each_shipped_model_says_where_it_comes_from_and_is_served_under_its_hub_id(file: Path) -> None:
    found = find_model(file.stem)
    assert found is not None
    source = found[1].source
    assert (source.hub is None) != (source.builtin is None)
    assert source.publisher
    assert source.licence
    assert file.stem in found[1].served_model_name
    # Chat programs recognise a vision model by its hub id.
    assert source.hub is None or source.hub in found[1].served_model_name
    assert found[1].default_max_tokens <= found[1].largest_max_tokens


def test_every_card_has_one_best_precision_of_a_family_and_it_fits() -> None:
    models, fitting = load_models(), {(plan.model, plan.profile) for plan in plans() if plan.fits}
    best = [(model.family, card) for model in models.values() for card in model.best_on]
    assert len(best) == len(set(best))
    cards = {name for name, profile in load_profiles().items() if profile.gpu}
    assert {card for family, card in best if family == "qwen3-vl-2b"} == cards
    assert {(name, card) for name, model in models.items() for card in model.best_on} <= fitting


def test_fewer_bits_say_what_is_known_of_their_answers() -> None:
    for name, model in load_models().items():
        assert (model.quality is not None) == name.endswith(("-awq", "-fp8")), name
        if model.quality and model.quality.known == "published":
            assert model.quality.source


def test_the_cards_and_models_that_the_readme_promises() -> None:
    assert {"cpu", "rtx3060", "rtx4060ti", "rtx4090"} <= set(load_profiles())
    assert {"demo", "qwen3-vl-2b-awq", "qwen3-vl-2b-fp8", "qwen3-vl-2b"} <= set(load_models())


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_committed_json_schema_is_what_the_code_says(name: str) -> None:
    assert (CONFIGS / name).read_text(encoding="utf-8") == as_json(SCHEMAS[name]), "run `python -m serving.schema`"


def test_the_schema_command_writes_beside_the_yaml_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving.schema"],
        env=os.environ | {"ONECARD_CONFIGS_DIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / name) for name in SCHEMAS]
    for name in SCHEMAS:
        assert (tmp_path / name).read_bytes() == (CONFIGS / name).read_bytes()


GPU = {"names": ["A card"], "memory_mib": 8192, "bandwidth_gb_s": 300, "compute_capability": "8.6"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (CPU | {"device": "cuda"}, "`device: cuda` needs it"),
        (CPU | {"gpu": GPU}, "`device: cpu` has none"),
        (CPU | {"device": "cuda", "gpu": GPU | {"names": []}}, "`gpu.names`"),
        (CPU | {"engine_args": {"max-model-len": 4096}}, "`engine_args.max-model-len`: write `max_model_len`"),
    ],
)
def test_what_would_be_planned_wrongly_is_refused(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    message = refusal(tmp_path, content)
    assert says in message
    assert "``" not in message


def test_an_alias_is_the_profile_itself() -> None:
    assert load_profile("rtx4060ti-16g") == load_profile("rtx4060ti")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("rtx306", "rtx3060"), ("rtx3600", "rtx3060`"), ("RTX4090", "rtx4090"), ("4060ti", "rtx4060ti"), ("cup", "cpu")],
)
def test_a_mistyped_profile_names_the_one_that_was_meant(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean `{meant}") as caught:
        load_profile(typed)
    assert "auto" in str(caught.value)


def test_a_word_that_is_near_nothing_gets_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("zzzzzz")
    assert "Did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in load_profiles())


def test_a_file_of_ones_own_is_a_profile_by_its_path(tmp_path: Path) -> None:
    name, profile = load_profile(written(tmp_path, changed("limits.max_images_per_request", 9)))
    assert (name, profile.limits.max_images_per_request) == ("mine", 9)


def test_another_folder_of_configs_takes_the_place_of_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONFIGS / "profiles", tmp_path / "profiles")
    (tmp_path / "profiles" / "cpu.yaml").rename(tmp_path / "profiles" / "laptop.yaml")
    monkeypatch.setenv("ONECARD_CONFIGS_DIR", str(tmp_path))
    assert "laptop" in load_profiles()
    assert "cpu" not in load_profiles()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed("polisy", "balanced"), "unknown key `polisy`. Did you mean `policy`?"),
        (changed("limits.max_image_per_request", 4), "`limits.max_image_per_request`. Did you mean `max_images_per_request`?"),
        (changed("contxt", 4096), "Did you mean `context`?"),
        (changed("gpu", {"memory": 1}), "unknown key `gpu.memory`. Did you mean `memory_mib`?"),
        (changed("zzz", 1), "Known here: version, title, aliases, device"),
        (without("limits.max_body_mib"), "`limits.max_body_mib` is missing."),
        (without("model"), "`model` is missing."),
        (changed("device", "tpu"), "'cuda' or 'cpu' (it is 'tpu')"),
        (changed("policy", "fast"), "'interactivity', 'balanced' or 'throughput'"),
        (changed("limits.max_body_mib", -1), "`limits.max_body_mib`: Input should be greater than 0 (it is -1)"),
        (changed("kv_cache_mib", "lots"), "`kv_cache_mib`"),
        (changed("context", 0), "`context`"),
        ("- a\n- list\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("title: [", "is not valid YAML"),
        ("title: \t- x: {", "is not valid YAML"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_refused_with_the_key_and_the_way_out(tmp_path: Path, content: Any, says: str) -> None:
    message = refusal(tmp_path, content)
    assert "mine.yaml" in message
    assert says in message


def test_every_mistake_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, {**changed("device", "tpu"), "polisy": 1})
    assert "polisy" in message
    assert "tpu" in message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe\x00title")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_profile(str(file))


def test_a_home_is_found_where_no_shell_has_written_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in --profile=~/mine.yaml, and in a service's settings."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CPU), "utf-8")
    assert load_profile("~/mine.yaml")[0] == "mine"


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_profile(str(tmp_path / "none.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="directory"):
        load_profile(str(tmp_path / "folder.yaml"))


def test_vllms_own_arguments_are_taken_without_being_known(tmp_path: Path) -> None:
    _, profile = load_profile(written(tmp_path, changed("engine_args.block_size", 64)))
    assert profile.engine_args["block_size"] == 64


def test_a_model_is_found_by_its_name_its_hub_id_and_its_path(tmp_path: Path) -> None:
    by_name = find_model("qwen3-vl-2b-awq")
    assert by_name is not None
    assert find_model(str(by_name[1].source.hub)) == by_name
    copied = shutil.copy(CONFIGS / "models" / "qwen3-vl-2b-awq.yaml", tmp_path / "mine.yaml")
    assert find_model(str(copied)) == ("mine", by_name[1])
    assert find_model("someone/else") is None
    assert find_model("./folder") is None


def test_sampling_keeps_whole_numbers_whole_and_knows_its_names(tmp_path: Path) -> None:
    """vLLM refuses each request with "top_k must be an integer" where the default is 20.0."""
    found = find_model("qwen3-vl-2b")
    assert found is not None
    assert found[1].sampling.model_dump_json(exclude_none=True) == '{"temperature":0.7,"top_p":0.8,"top_k":20}'
    model = yaml.safe_load((CONFIGS / "models" / "demo.yaml").read_text(encoding="utf-8"))
    with pytest.raises(ConfigError, match=r"unknown key `sampling.temprature`. Did you mean `temperature`\?"):
        find_model(written(tmp_path, model | {"sampling": {"temprature": 0.5}}))


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
_PLACES = [*CPU, *(f"{section}.{key}" for section in ("limits", "engine_args") for key in CPU[section])]


@given(st.sampled_from(_PLACES), _VALUES)
def test_whatever_stands_in_a_profile_it_loads_or_is_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, where: str, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("profile", numbered=True)
    file = written(folder, changed(where, value))
    try:
        profile = load_profile(file)[1]
    except ConfigError as error:
        message = str(error)
    else:
        message = profile.model_dump_json()
    assert where.rpartition(".")[2] in message


@given(st.dictionaries(st.integers() | st.booleans() | st.text(max_size=5), _LEAVES, max_size=4))
def test_keys_of_any_kind_are_refused_and_never_crash(
    tmp_path_factory: pytest.TempPathFactory, content: dict[Any, Any]
) -> None:
    with pytest.raises(ConfigError):
        load_profile(written(tmp_path_factory.mktemp("keys", numbered=True), content))


def test_a_file_for_a_newer_onecard_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"of version 2.*up to version 1.*Upgrade"):
        load_profile(written(tmp_path, {"version": 2, "a_key_to_come": True}))


def test_a_file_from_before_versions_is_of_the_first(tmp_path: Path) -> None:
    assert load_profile(written(tmp_path, without("version")))[1].version == 1


@pytest.mark.parametrize("file", [*PROFILES, *MODELS], ids=lambda file: file.stem)
def test_what_ships_says_its_version(file: Path) -> None:
    assert yaml.safe_load(file.read_text("utf-8"))["version"] == 1
