"""Who waits for another process of vLLM on a CPU leaves it to those who compute."""

import time

import pytest
from vllm.distributed.device_communicators import shm_broadcast

from serving.cpu.waiting import nap_instead_of_spinning


def test_who_waits_takes_little_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm_broadcast, "sched_yield", shm_broadcast.sched_yield)  # as it was, afterwards
    nap_instead_of_spinning()
    began, computed = time.monotonic(), time.thread_time()
    for _ in range(1000):
        shm_broadcast.sched_yield()
    assert time.thread_time() - computed < (time.monotonic() - began) / 2
