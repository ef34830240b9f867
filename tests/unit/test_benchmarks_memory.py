"""The memory benchmarks where no GPU is: the process that holds a card's memory, beside a stand-in for torch's allocator."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory_device import holding

ROOT = Path(__file__).parents[2]
# A card of 8 GiB, of which the first allocation takes half a GiB for the CUDA context.
TORCH = """
import os, types
free = 2**33
uint8 = "uint8"
def zeros(count, device):
    global free
    free -= 2**29
    return device
def empty(size, dtype, device):
    global free
    if size > free:
        raise MemoryError("CUDA out of memory")
    free -= size
    with open(os.environ["LEFT_FREE"], "w") as file:
        file.write(f"{device} {free // 2**20}")
    return device
cuda = types.SimpleNamespace(mem_get_info=lambda gpu: (free, 2**33))
"""


@pytest.fixture
def left_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in for torch writes how many MiB are free after each allocation."""
    (tmp_path / "torch.py").write_text(TORCH, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("LEFT_FREE", str(tmp_path / "left"))
    return tmp_path / "left"


def test_a_holder_says_that_it_holds_once_only_so_much_is_left(left_free: Path) -> None:
    with holding(3, 2500):
        assert left_free.read_text(encoding="utf-8") == "cuda:3 2500"


def test_a_card_that_cannot_be_held_is_no_smaller_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no CUDA here')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with pytest.raises(RuntimeError, match="the memory of GPU 0 could not be held"), holding(0, 1000):
        pass


def test_a_holder_lets_go_when_its_parent_has_ended(left_free: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory_holder", "0", "2500"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        holder.stdin.close()
        assert holder.wait(60) == 0
    assert left_free.is_file()
