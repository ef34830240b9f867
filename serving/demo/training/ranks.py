"""Training on several GPUs: one process for each, as `python -m torch.distributed.run` starts them; alone otherwise.

Every process draws its own pictures and takes the same steps: gradients are averaged, and process 0 keeps the time.
"""

import os
from collections.abc import Iterable

import torch
from torch import distributed, nn


class Ranks:
    """Which of the processes this is. Call `connect` after the data processes have been forked."""

    def __init__(self) -> None:
        self.number = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.local = int(os.environ.get("LOCAL_RANK", "0"))
        self._clock: distributed.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.number == 0

    def connect(self) -> torch.device:
        """Joins the processes, if there are several; this one's device."""
        device = torch.device("cuda", self.local) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if self.count > 1:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            self._clock = distributed.new_group(backend="gloo")  # on the CPU: to agree never waits for a GPU
        return device

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces the gradients by their means over the processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    def agree(self, seconds: float, ends: bool) -> tuple[float, bool]:
        """Process 0's time, and whether it ends now."""
        if self.count == 1:
            return seconds, ends
        said = torch.tensor([seconds, float(ends)], dtype=torch.float64)
        distributed.broadcast(said, src=0, group=self._clock)
        return float(said[0]), bool(said[1])

    def close(self) -> None:
        if self.count > 1:
            distributed.destroy_process_group()
