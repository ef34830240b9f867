"""Errors as a user meets them: one clear paragraph, an exit code of its own, no traceback, nothing loaded."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from serving.hub import resolve_model
from tests.conftest import ONECARD

DEMO = resolve_model("demo").folder


def onecard(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ONECARD, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert "Traceback" not in done.stderr
    return done


def refused(code: int, *arguments: str, says: str, **environment: str) -> str:
    done = onecard(*arguments, **environment)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    return done.stderr


def test_unknown_profile_names_the_nearest() -> None:
    refused(4, "serve", "--profile", "rtx306", says="Did you mean `rtx3060`?")


def test_unknown_yaml_key_names_the_nearest(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    shipped = Path(__file__).parents[2] / "configs" / "profiles" / "cpu.yaml"
    mine.write_text(shipped.read_text().replace("max_images_per_request", "max_image_per_request"))
    error = refused(4, "serve", "--profile", str(mine), says="unknown key `limits.max_image_per_request`")
    assert "Did you mean `max_images_per_request`?" in error


@pytest.mark.parametrize("text", ["- a list", "title: [", "title: 5\n"])
def test_broken_yaml(tmp_path: Path, text: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    refused(4, "serve", "--profile", str(mine), says="mine.yaml")


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_gpu_profile_without_a_gpu() -> None:
    refused(7, "serve", "--profile", "rtx3060", "--model", str(DEMO), says="PROFILE=cpu")


def test_model_folder_missing(tmp_path: Path) -> None:
    refused(5, "serve", "-p", "cpu", "--model", str(tmp_path / "none"), says="There is no model folder")


def test_not_a_vision_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    refused(5, "serve", "-p", "cpu", "--model", str(tmp_path), says="not a vision-language model")


def test_no_config(tmp_path: Path) -> None:
    refused(5, "serve", "-p", "cpu", "--model", str(tmp_path), says="no config.json")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def test_weights_cut_off(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    refused(5, "serve", "-p", "cpu", "--model", str(checkpoint), says="broken or cut off")


def test_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    refused(5, "serve", "-p", "cpu", "--model", str(checkpoint), says="--load-format dummy")
    assert onecard("plan", "-p", "cpu", "--model", str(checkpoint)).returncode == 0


def test_hub_not_reachable(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        error = refused(
            6, "serve", "-p", "cpu", "--model", "someone/model",
            says="cannot be reached", HF_ENDPOINT=endpoint, MODELSCOPE_ENDPOINT=endpoint, HF_HOME=str(tmp_path),
        )  # fmt: skip
    assert "HF_ENDPOINT" in error


def test_open_to_others_only_with_a_key() -> None:
    refused(2, "serve", "-p", "cpu", "--host", "0.0.0.0", says="ONECARD_API_KEY")


def test_what_does_not_fit_exits_with_3() -> None:
    refused(3, "serve", "-p", "cpu", "--gpu-memory-mib", "1000", says="does not fit")


def test_a_wrong_flag_is_taught() -> None:
    refused(2, "serve", "--profil", "cpu", says="No such option")


def test_words_after_the_dashes_that_are_no_flag() -> None:
    refused(2, "serve", "-p", "cpu", "--", "fast", says="belongs to no flag")


def test_a_key_after_the_dashes_would_be_seen_by_others() -> None:
    refused(2, "serve", "-p", "cpu", "--", "--api-key", "secret", says="ONECARD_API_KEY")


def test_ask_without_a_server_or_a_picture(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = str(closed.getsockname()[1])
        photo = tmp_path / "photo.png"
        Image.new("RGB", (64, 64)).save(photo)
        refused(11, "ask", str(photo), "What?", "--port", port, says="No server answers")
        refused(2, "ask", str(tmp_path / "none.png"), "What?", "--port", port, says="cannot be read")
        refused(2, "ask", "What?", "--port", port, says="Name a picture and a question")


def test_vllm_not_installed(tmp_path: Path) -> None:
    """In an environment without vLLM: this one with the package hidden."""
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'vllm' else find(name, *rest)\n"
    )
    refused(9, "serve", "-p", "cpu", says="make setup", PYTHONPATH=str(tmp_path))


def test_help_imports_nothing_heavy() -> None:
    heavy = ["torch", "vllm", "transformers", "openai", "pydantic"]
    code = f"import sys, serving.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
