"""An EAGLE3 head of a hub: planned by its headers, fetched with the model that it drafts for, and then needing no hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.eagle import DEMO, write_config, write_head
from tests.hub import COMMIT, Hub, hub_of
from tests.unit.hub_user import User, refusal, succeeds

SPECULATION = {"method": "eagle3", "num_speculative_tokens": 3}
ASKING = ("--speculative-config", json.dumps(SPECULATION))
DEMO_YAML = (Path(__file__).parents[2] / "configs" / "models" / "demo.yaml").read_text(encoding="utf-8")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    head = write_head(tmp_path / "published")
    with hub_of({file.name: file.read_bytes() for file in head.iterdir()} | {"README.md": b"# A head"}) as running:
        yield running


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(tmp_path / "home", hub.url)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model of the user's own, whose YAML file names its head."""
    file = tmp_path / "mine.yaml"
    file.write_text(f"{DEMO_YAML}eagle3: {{hub: someone/model, publisher: someone, licence: MIT}}\n", encoding="utf-8")
    return str(file)


def plan_of(user: User, model: str, asking: tuple[str, ...] = ASKING) -> dict[str, Any]:
    done = user.run("plan", "-p", "cpu", "--model", model, "--json", "--", *asking)
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def test_the_models_own_head_is_planned_by_its_headers_and_the_same_one_by_its_id(
    hub: Hub, user: User, model: str
) -> None:
    plan = plan_of(user, model)
    assert (plan["speculation"]["head"], plan["speculation"]["weights_mib"]) == ("someone/model", 3)
    assert hub.ranges_of("model.safetensors") == [f"bytes=0-{min(262_144, len(hub.files['model.safetensors'])) - 1}"]
    assert not user.cache.exists()
    named = ("--speculative-config", json.dumps(SPECULATION | {"model": "someone/model"}))
    hub.asked.clear()
    assert plan_of(user, "demo", named)["speculation"] == plan["speculation"]
    assert hub.asked == []


def test_a_head_is_pulled_with_its_model_and_then_needs_no_hub(hub: Hub, user: User, model: str) -> None:
    # Nobody who does not ask for it downloads it.
    assert not user.run("pull", model).stderr
    assert hub.asked == []
    done = user.run("pull", model, "--", *ASKING)
    assert done.returncode == 0, done.stderr
    demo, head = done.stdout.split()
    assert Path(demo).name == "model"
    assert Path(head) == user.cache / "snapshots" / COMMIT
    assert user.files().keys() == {"config.json", "model.safetensors"}

    hub.asked.clear()
    user.more["HF_HUB_OFFLINE"] = "1"
    assert plan_of(user, model)["engine_args"]["speculative_config"] == SPECULATION | {"model": head}
    dry = user.run("serve", "-p", "cpu", "--model", model, "--dry-run", "--", *ASKING)
    assert head in dry.stdout
    assert hub.asked == []


def test_a_head_that_another_program_has_downloaded_is_found(hub: Hub, user: User, model: str) -> None:
    """A head has no tokenizer and no processor, which a model without would be incomplete for."""
    snapshot = user.cache / "snapshots" / COMMIT
    write_head(snapshot)
    (user.cache / "refs").mkdir()
    (user.cache / "refs" / "main").write_text(COMMIT)
    assert plan_of(user, model)["engine_args"]["speculative_config"]["model"] == str(snapshot)
    assert hub.asked == []


def test_a_head_without_safetensors_is_not_downloaded(hub: Hub, user: User, model: str) -> None:
    hub.files = {"config.json": hub.files["config.json"], "pytorch_model.bin": b"a pickle"}
    assert plan_of(user, model)["speculation"]["weights_mib"] == 3  # by its config
    assert "a pickle can run code" in refusal(user.run("pull", model, "--", *ASKING), 5)


def test_a_head_that_no_hub_has_is_refused_with_the_ways_out(hub: Hub, user: User, model: str) -> None:
    hub.huggingface = False
    message = refusal(user.run("plan", "-p", "cpu", "--model", model, "--", *ASKING))
    assert "someone/model is not on this machine" in message
    assert "an EAGLE3 head's: as `model` in --speculative-config" in message


def test_a_pulled_head_is_its_folder_too(user: User, tmp_path: Path) -> None:
    """What lies in a folder is neither asked of a hub nor downloaded."""
    head = write_config(tmp_path / "mine", DEMO)
    given = ("--speculative-config", json.dumps(SPECULATION | {"model": str(head)}))
    done = user.run("pull", "demo", "--", *given)
    assert succeeds(done)
    assert done.stdout.split()[1] == str(head)
