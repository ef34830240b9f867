"""What a name means: a folder, the built-in model, a model of a hub that is here or is not. No hub is asked."""

from pathlib import Path

import pytest

from serving.errors import CheckpointError
from serving.hub import resolve_model
from serving.machine.port import free_port
from tests.unit.hub_user import DEMO, User, refusal


def test_names_folders_and_the_built_in_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = resolve_model("demo")
    assert demo.model.served_model_name == ("onecard-demo", "demo")
    # The built-in model keeps its names when its folder is given.
    assert resolve_model(str(DEMO)).model == demo.model
    # A folder of that name is preferred to a model of that name on the hub.
    (tmp_path / "someone" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    mine = resolve_model("someone/model")
    assert mine.folder == tmp_path / "someone" / "model"
    assert mine.model.served_model_name == ("model",)
    assert resolve_model("~/models/x").folder == Path.home() / "models" / "x"


def test_the_built_in_model_is_its_own_download() -> None:
    assert resolve_model("demo").download() == DEMO


@pytest.mark.parametrize("name", ["some--one/model", "someone/model.git", "someone/model.", "someone/-model"])
def test_what_can_be_no_hub_id_is_refused_without_asking_a_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder here nor a Hub id"):
        resolve_model(name).checkpoint()


@pytest.mark.parametrize("name", ["~nobody-here", "~nobody-here/model"])
def test_a_folder_of_a_user_who_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"There is no model folder /.*{name}"):
        resolve_model(name).checkpoint()


def test_a_model_file_without_a_source_is_refused(tmp_path: Path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(
        "title: mine\nsource: {publisher: someone, licence: MIT}\n"
        "served_model_name: [mine]\ndefault_max_tokens: 16\nlargest_max_tokens: 16\n"
    )
    with pytest.raises(CheckpointError, match="names no source"):
        resolve_model(str(yaml))


@pytest.mark.parametrize("command", ["pull", "plan"])
def test_without_a_network_each_hub_is_reported_with_the_ways_out(tmp_path: Path, command: str) -> None:
    user = User(tmp_path, f"http://127.0.0.1:{free_port()}")
    message = refusal(user.pull() if command == "pull" else user.plan())
    assert "someone/model is not on this machine" in message
    assert f"Hugging Face ({user.endpoint}): cannot be reached" in message
    assert f"ModelScope ({user.endpoint}): cannot be reached" in message
    assert message.count("Connection refused") == 2
    for way_out in ("the proxy", "HF_ENDPOINT to a mirror", "its path to --model", "MODEL=demo"):
        assert way_out in message


def test_offline_no_hub_is_asked(tmp_path: Path) -> None:
    user = User(tmp_path, "http://127.0.0.1:9", {"HF_HUB_OFFLINE": "1"})
    message = refusal(user.plan())
    assert message.count("is not asked, since HF_HUB_OFFLINE is set") == 2
    assert "network" not in message
