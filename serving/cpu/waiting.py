"""How vLLM's processes wait for one another on a CPU: asleep.

vLLM's engine and worker, each while the other computes, ask a shared buffer again and again, with sched_yield(2) between.
On a GPU's host that is a core that nobody needs; on a CPU it is half of a small machine. And it can starve the rest of it: on
two cores with Linux 6.18, programs of another session than the server's were ready to run and did not for up to 15 s while
answers were generated, the server's own clients among them. With naps instead they ran within some 10 ms.
"""

import time

# A small part of the smallest step, of some milliseconds; and long beside the microseconds that asking takes.
_NAP_S = 1e-4


def nap_instead_of_spinning() -> None:
    """In this process, from now on."""
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.sched_yield = _nap


def _nap() -> None:
    time.sleep(_NAP_S)
