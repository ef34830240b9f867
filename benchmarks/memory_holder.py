"""Holds a GPU's memory so that it is as small as another card's: `python -m benchmarks.memory_holder GPU LEAVE_MIB`.

Started by `memory_device.holding`. Says `held` once only so many MiB are free, and holds them until its stdin is closed.
The allocations are plain ones (never managed memory): what does not fit beside them fails as on the smaller card.
"""

import sys

from benchmarks.say import say

HELD = "held"
# Large pieces first; the last ones are as fine as the allocator's own.
_PIECES = (2**30, 2**26, 2**21)


def main() -> None:
    """Holds what the command line says."""
    import torch

    gpu, leave = int(sys.argv[1]), int(sys.argv[2]) * 2**20
    device = f"cuda:{gpu}"
    held = [torch.zeros(1, device=device)]  # the CUDA context, whose memory is then no longer free
    for piece in _PIECES:
        while torch.cuda.mem_get_info(gpu)[0] >= leave + piece:
            held.append(torch.empty(piece, dtype=torch.uint8, device=device))
    say(HELD)
    sys.stdin.read()


if __name__ == "__main__":
    main()
