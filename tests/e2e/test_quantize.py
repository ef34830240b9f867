"""`onecard quantize` and `onecard evaluate` with everything real: llm-compressor, vLLM with and without onecard, Ctrl-C.

The long ones need llm-compressor: an environment of its own that onecard makes (2 GB, once), or ONECARD_QUANTIZE_PYTHON.
"""

import json
import os
import signal
import subprocess
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest

from serving.evaluate.asking import Answer, ask_all
from serving.evaluate.compare import compare
from serving.evaluate.questions import demo_questions
from serving.evaluate.serving import served
from tests.conftest import ONECARD, Server
from tests.plain import plain_vllm

FEW = 26  # one question of each kind and language
SOME = 260


def onecard(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ONECARD_STATE_DIR": str(folder / "state")}
    return subprocess.run(
        [*ONECARD, *arguments], capture_output=True, text=True, timeout=3000, env=environment, check=False
    )


def test_a_server_against_itself_loses_nothing_and_few_questions_prove_little(server: Server, tmp_path: Path) -> None:
    asked = ("--model", server.url, "--against", f"{server.url}/v1", "--count", str(FEW), "--json", "--gate", "0.5")
    done = onecard(tmp_path, "evaluate", *asked)
    told = json.loads(done.stdout)
    assert (told["questions"], told["lost"], told["won"]) == (FEW, 0, 0)
    assert told["right"] >= FEW - 3
    assert told["agreement"] == 1
    assert told["kl_tokens"] > FEW
    assert told["kl_nats"] < 1e-3
    # Nothing was lost, and so few questions still do not show that less than half a point ever would be.
    assert done.returncode == 15
    assert "are allowed" in done.stderr


def quantize_command(out: Path, *more: str) -> list[str]:
    scheme = ("--scheme", "awq-head8-a8", "--samples", str(FEW), "--device", "cpu", "--no-evaluation")
    return [*ONECARD, "quantize", "--model", "demo", "--out", str(out), *scheme, *more]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantized") / "demo-awq"
    done = subprocess.run(quantize_command(out), capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_interrupted_run_goes_on_to_the_same_checkpoint(quantized: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "demo-awq", tmp_path / "said.txt"
    with said.open("wb") as stream:
        process = subprocess.Popen(quantize_command(out), stderr=stream, start_new_session=True)
        deadline = time.monotonic() + 1800
        while "part 2 of" not in said.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, said.read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not psutil.wait_procs(family, 30)[1]
    assert not out.exists()
    changed = subprocess.run(
        quantize_command(out, "--samples", "30"), capture_output=True, text=True, timeout=600, check=False
    )
    assert changed.returncode == 2
    assert "another model, scheme or calibration" in changed.stderr
    again = subprocess.run(quantize_command(out), capture_output=True, text=True, timeout=3000, check=False)
    assert again.returncode == 0, again.stderr
    assert "part 2 of 6: done before" in again.stderr
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["demo-awq", "said.txt"]
    for file in quantized.glob("*.safetensors"):
        assert file.read_bytes() == (out / file.name).read_bytes()


def ask(url: str, journal: Path, count: int) -> dict[str, Answer]:
    return ask_all(url, islice(demo_questions(count), count), count, journal, "asked")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_plain_vllm_loads_the_checkpoint_and_gives_the_same_answers(quantized: Path, tmp_path: Path) -> None:
    with plain_vllm(quantized, tmp_path, "m") as port:
        plain = ask(f"http://127.0.0.1:{port}", tmp_path / "plain.jsonl", SOME)
    with served(str(quantized), "cpu") as url:
        ours = ask(url, tmp_path / "ours.jsonl", SOME)
    log = (tmp_path / "vllm.log").read_text()
    assert "onecard" not in log.replace(str(quantized), "")
    assert "CPUWNA16LinearKernel" in log
    assert "CPUInt8ScaledMMLinearKernel" in log  # the head's
    found = compare(ours, plain)
    assert found.agreement >= 0.97  # in batches of other sizes sums are rounded otherwise
    assert found.right >= 0.97 * found.questions


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_checkpoint_that_was_spoiled_is_refused_until_its_loss_is_accepted(tmp_path: Path) -> None:
    out, made = tmp_path / "demo-awq", tmp_path / "demo-awq.partial" / "made"

    def judged(*more: str) -> subprocess.CompletedProcess[str]:
        command = quantize_command(out, "--profile", "cpu", *more)[len(ONECARD) :]
        return onecard(tmp_path, *(word for word in command if word != "--no-evaluation"))

    few = judged("--count", str(FEW))  # too few to prove it: the result waits for more of them
    assert few.returncode == 15, few.stderr
    spoil(made)
    spoiled = judged("--count", str(SOME))
    assert spoiled.returncode == 15, spoiled.stderr
    assert "the checkpoint is made" in spoiled.stderr
    assert "Not called good" in spoiled.stderr
    # Beyond what so few questions leave open even of one that lost nothing.
    assert json.loads((made / "quality.json").read_text())["score_95_points"][0] > 1.5
    assert not out.exists()
    accepted = judged("--count", str(SOME), "--accept-loss")
    assert accepted.returncode == 0, accepted.stderr
    assert "accepted by hand" in (out / "README.md").read_text()
    assert not made.parent.exists()


def spoil(checkpoint: Path) -> None:
    """Every scale of the language model's matrices is off by half of its size."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(1)
    for file in checkpoint.glob("*.safetensors"):
        tensors = load_file(file)
        for name in [name for name in tensors if ".layers." in name and name.endswith(".weight_scale")]:
            noise = torch.randn(tensors[name].shape, generator=generator)
            tensors[name] *= (1 + 0.5 * noise).to(tensors[name].dtype)
        save_file(tensors, file, metadata={"format": "pt"})
