"""From a name to a folder, with a hub on this machine: downloads as a user starts them, and everything that can go wrong.

Each download is a `onecard pull` in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from serving.errors import CheckpointError, HubError
from serving.hub import resolve_model
from tests.conftest import free_port
from tests.hub import COMMIT, Hub, hub_of

DEMO = resolve_model("demo").folder
WANTED = {
    "config.json": (DEMO / "config.json").read_bytes(),
    "preprocessor_config.json": (DEMO / "preprocessor_config.json").read_bytes(),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": save({"weight": np.arange(100_000, dtype=np.float32)}),
}
UNWANTED = {
    "pytorch_model.bin": b"a pickle",
    "modeling.py": b"raise SystemExit",
    "README.md": b"# A model",
    "x.gguf": b"x",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(WANTED | UNWANTED) as running:
        yield running


def environment(home: Path, endpoint: str) -> dict[str, str]:
    """Without this machine's tokens, proxies and caches."""
    mine = {
        "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*",
        "HF_HUB_ETAG_TIMEOUT": "20", "HF_HUB_DOWNLOAD_TIMEOUT": "20",
    }  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    return kept | mine


def command(model: str) -> list[str]:
    return [sys.executable, "-m", "serving", "pull", model]


def pull(home: Path, endpoint: str, model: str = "someone/model") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(model), env=environment(home, endpoint), capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done


def refusal(done: subprocess.CompletedProcess[str], code: int = 6) -> str:
    """The paragraph that `onecard` ends with."""
    assert done.returncode == code, done.stderr
    assert "onecard: " in done.stderr
    return done.stderr.rpartition("onecard: ")[2]


def files_in(home: Path) -> dict[str, bytes]:
    snapshot = home / "hub" / "models--someone--model" / "snapshots" / COMMIT
    return {file.name: file.read_bytes() for file in snapshot.iterdir()}


def test_a_model_is_downloaded_once_and_then_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    first = pull(tmp_path, hub.url)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(tmp_path / "hub" / "models--someone--model" / "snapshots" / COMMIT)
    # Pickles and code are not even asked for: they could run.
    assert files_in(tmp_path) == WANTED
    assert not any(name in path for _, path, _ in hub.asked for name in UNWANTED)

    hub.asked.clear()
    second = pull(tmp_path, hub.url)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert hub.asked == []


def test_a_download_that_is_cut_off_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.files["model.safetensors"] = weights = save({"weight": np.arange(6_000_000, dtype=np.float32)})
    hub.cuts = 2
    assert pull(tmp_path, hub.url).returncode == 0
    assert files_in(tmp_path)["model.safetensors"] == weights
    ranges = [given for method, path, given in hub.asked if method == "GET" and path == "/cdn/model.safetensors"]
    starts = [int(given.removeprefix("bytes=").partition("-")[0] or 0) for given in ranges]
    assert len(starts) == 3
    # What was received is kept in steps of the hub's client, 10 MB.
    assert starts[0] == 0 < starts[1] <= starts[2]


def test_a_killed_download_is_taken_up_by_the_next_start(hub: Hub, tmp_path: Path) -> None:
    """Half a snapshot must never be taken for the model."""
    hub.weights_given.clear()
    with subprocess.Popen(
        command("someone/model"),
        env=environment(tmp_path, hub.url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as killed:
        assert hub.weights_asked.wait(30)
        killed.kill()
    hub.weights_given.set()
    assert pull(tmp_path, hub.url).returncode == 0
    assert files_in(tmp_path) == WANTED


def test_a_hub_that_hangs_up_in_the_middle_is_reported(hub: Hub, tmp_path: Path) -> None:
    hub.hangs_up = True
    message = refusal(pull(tmp_path, hub.url))
    assert "The model hub cannot be reached" in message
    assert "HF_ENDPOINT" in message


def test_a_network_that_asks_for_a_login_is_reported(hub: Hub, tmp_path: Path) -> None:
    hub.portal = True
    message = refusal(pull(tmp_path, hub.url))
    assert "cannot be reached" in message
    assert "the proxy" in message


def test_no_connection_names_the_ways_out(tmp_path: Path) -> None:
    message = refusal(pull(tmp_path, f"http://127.0.0.1:{free_port()}"))
    assert "someone/model is not on this machine" in message
    assert "Connection refused" in message
    for way_out in ("the proxy", "HF_ENDPOINT to a mirror", "give its path to --model", "MODEL=demo"):
        assert way_out in message


def test_a_model_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    message = refusal(pull(tmp_path, hub.url, "someone/modle"))
    assert "no model 'someone/modle'" in message
    assert "no such folder here" in message


def test_a_gated_model_says_how_to_get_in(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    message = refusal(pull(tmp_path, hub.url))
    assert "someone/model is gated: accept its licence" in message
    assert "HF_TOKEN" in message


def test_a_revision_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(
        "title: mine\nsource: {hub: someone/model, revision: v9, publisher: someone, licence: MIT}\n"
        "served_model_name: [mine]\ndefault_max_tokens: 16\nlargest_max_tokens: 16\n"
    )
    message = refusal(pull(tmp_path, hub.url, str(yaml)))
    assert "no revision 'v9'" in message
    assert "source.revision" in message


def test_a_model_of_ones_own_yaml_is_downloaded_at_its_commit(hub: Hub, tmp_path: Path) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(
        f'title: mine\nsource: {{hub: someone/model, revision: "{COMMIT}", publisher: someone, licence: MIT}}\n'
        "served_model_name: [my-model]\ndefault_max_tokens: 16\nlargest_max_tokens: 16\n"
    )
    done = pull(tmp_path, hub.url, str(yaml))
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path) == WANTED


@pytest.mark.parametrize("name", ["some--one/model", "someone/model.git", "someone/model.", "someone/-model"])
def test_what_can_be_no_hub_id_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither a folder here nor a Hub id"):
        resolve_model(name)


def test_a_plan_downloads_nothing_and_says_what_would(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "plan", "--profile", "rtx3060", "--model", "someone/model"],
        env=environment(tmp_path, "http://127.0.0.1:9"), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "onecard pull someone/model" in refusal(done)


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


def test_a_shipped_model_that_is_not_here_is_named_with_its_command(tmp_path: Path) -> None:
    code = "from serving.hub import resolve_model; resolve_model('qwen3-vl-2b-awq', download=False)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path, "http://127.0.0.1:9"), capture_output=True, text=True
    )
    assert HubError.__name__ in done.stderr
    assert "onecard pull cyankiwi/Qwen3-VL-2B-Instruct-AWQ-4bit" in done.stderr
