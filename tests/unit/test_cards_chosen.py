"""Which GPUs serve: all that are alike, one plan for all, and words for what cannot be."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import HardwareError, UsageError
from serving.ipc.launch import Launch
from serving.machine.hardware import Gpu, Hardware
from serving.planning.cards import Cards, choose
from serving.prepare import prepare
from tests.conftest import ONECARD

CARD = Gpu(0, "NVIDIA GeForce RTX 3060", 12_288, 300, "8.6")
SECOND = replace(CARD, index=1, used_mib=2_000)
OTHER = Gpu(2, "NVIDIA GeForce RTX 4090", 24_564, 0, "8.9")


def machine(*gpus: Gpu) -> Hardware:
    return Hardware(gpus, "580.65.06", None, 65_536, 8, False)


@pytest.mark.parametrize(
    ("gpus", "wanted", "servers"),
    [
        ((CARD,), None, ((),)),  # as CUDA shows it
        ((CARD, SECOND), None, ((0,), (1,))),
        ((CARD, SECOND), 1, ((0,),)),
        ((CARD, SECOND, OTHER), None, ((0,), (1,))),
        ((OTHER, CARD), None, ((2,),)),  # CUDA might show the other one first
        ((), None, ((),)),
    ],
)
def test_all_that_are_alike_serve(
    gpus: tuple[Gpu, ...], wanted: int | None, servers: tuple[tuple[int, ...], ...]
) -> None:
    assert choose(machine(*gpus), wanted, on_gpu=True).servers == servers


def test_unlike_cards_are_left_out_and_named_and_refused_where_they_are_asked_for() -> None:
    assert choose(machine(CARD, OTHER), None, on_gpu=True).unused == (OTHER,)
    with pytest.raises(HardwareError, match=r"only cards that are alike share a plan.*2: NVIDIA GeForce RTX 4090"):
        choose(machine(CARD, OTHER), 2, on_gpu=True)


def test_more_than_there_are_is_refused_with_what_there_is() -> None:
    with pytest.raises(HardwareError, match=r"--cards 3: this machine shows 2 GPUs \(0: NVIDIA GeForce RTX 3060"):
        choose(machine(CARD, SECOND), 3, on_gpu=True)


def test_the_plan_is_for_the_card_with_the_least_memory_free() -> None:
    found = machine(CARD, SECOND)
    assert found.of(Cards(((0,), (1,))).indices).gpus == (SECOND, CARD)
    assert found.of(Cards(((0,),)).indices).gpus == (CARD,)
    both = prepare("rtx3060", "qwen3-vl-2b", found=found).plan
    alone = prepare("rtx3060", "qwen3-vl-2b", found=found, cards=1).plan
    assert (both.servers, alone.servers) == (2, 1)
    assert both.capacity.kv_tokens < alone.capacity.kv_tokens


def test_a_machine_sees_one_of_its_gpus_or_that_it_is_gone() -> None:
    assert machine(CARD, SECOND).of((1,)).gpus == (SECOND,)
    gone = machine(CARD).of((0, 1))
    assert (gone.gpus, gone.nvml_problem) == ((), "of GPU 0, 1 not all are there any more")


def test_more_servers_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="--cards 9: this machine has 8 cores"):
        choose(machine(), 9, on_gpu=False)
    asked = [*ONECARD, "serve", "--profile", "cpu", "--cards", "999"]
    refused = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "which so many would only share" in refused.stderr


def test_the_plan_says_that_it_is_for_each_card() -> None:
    asked = [*ONECARD, "plan", "--profile", "cpu", "--cards", "2"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "2 such servers on one port: one for each card." in told


def test_a_model_that_is_too_large_for_one_card_is_split_over_as_few_as_it_needs() -> None:
    four = [replace(CARD, index=index) for index in range(4)]
    prepared = prepare("rtx3060", "qwen3-vl-8b", found=machine(*four))
    plan = prepared.plan
    assert (plan.fits, plan.tensor_parallel_size, plan.servers) == (True, 2, 2)
    assert prepared.cards.servers == ((0, 1), (2, 3))
    assert plan.engine_args["tensor_parallel_size"] == 2
    assert plan.memory_mib.total <= plan.gpu.usable_mib
    assert any("wait for each other 72 times a token" in each for each in plan.given_up)
    assert "exchanges between the cards" in plan.expected.source
    assert not prepare("rtx3060", "qwen3-vl-8b", found=machine(CARD)).plan.fits


def test_cards_that_share_a_server_are_as_many_as_asked_for() -> None:
    both = prepare("rtx3060", "qwen3-vl-2b", found=machine(CARD, SECOND), user_argv=("--tensor-parallel-size", "2"))
    alone = prepare("rtx3060", "qwen3-vl-2b", found=machine(SECOND))
    assert (both.cards.servers, both.plan.servers) == (((0, 1),), 1)
    assert both.plan.memory_mib.weights < 0.6 * alone.plan.memory_mib.weights
    assert both.plan.capacity.kv_tokens > 2 * alone.plan.capacity.kv_tokens
    with pytest.raises(
        HardwareError, match="--tensor-parallel-size 2: so many cards that are alike share a server, and there is"
    ):
        prepare("rtx3060", "qwen3-vl-2b", found=machine(CARD), user_argv=("--tensor-parallel-size", "2"))
    three = machine(CARD, SECOND, replace(CARD, index=2))
    with pytest.raises(
        UsageError, match=r"16 heads, 8 of them for keys and values, and 16 of the vision encoder, .* be split over 3"
    ):
        prepare("rtx3060", "qwen3-vl-2b", found=three, user_argv=("--tensor-parallel-size", "3"))


def environments(
    monkeypatch: pytest.MonkeyPatch, folder: Path, cards: tuple[tuple[int, ...], ...], *argv: str
) -> list[str]:
    """What of its environment tells each server what it has to itself."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    plan = prepare("rtx3060", "qwen3-vl-2b", found=machine(), cards=4, user_argv=argv).plan
    launch = Launch(
        plan=plan, model_folder=folder, default_max_tokens=16, host="127.0.0.1", port=1, run_dir=folder, cards=cards
    )  # fmt: skip
    each = [launch.of_card(card).card_environment for card in range(len(cards))]
    return [own.get("CUDA_VISIBLE_DEVICES") or own.get("VLLM_CPU_OMP_THREADS_BIND", "") for own in each]


def test_each_server_has_gpus_or_cores_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert environments(monkeypatch, tmp_path, ((),)) == [""]
    assert environments(monkeypatch, tmp_path, ((),) * 2) == ["0,2", "1,3"]
    assert environments(monkeypatch, tmp_path, ((),) * 2, "--tensor-parallel-size", "2") == ["0|1", "2|3"]
    assert environments(monkeypatch, tmp_path, ((0,), (3,))) == ["0", "3"]
    assert environments(monkeypatch, tmp_path, ((0, 1), (2, 3))) == ["0,1", "2,3"]


def test_a_model_whose_encoder_does_not_divide_is_not_split() -> None:
    with pytest.raises(UsageError, match=r"3 of the vision encoder, .* cannot be split over 2 cards"):
        prepare("cpu", "demo", found=machine(), cards=2, user_argv=("--tensor-parallel-size", "2"))
