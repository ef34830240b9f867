"""Which of a machine's GPUs serve: all that are alike, each with a server of its own, so that none takes another down with it;
or several to a server, where the model does not fit on one. All share one plan, made for the GPU with the least free memory."""

from dataclasses import dataclass, replace

from serving.errors import HardwareError, UsageError
from serving.machine.hardware import Gpu, Hardware

# Two cards of a kind differ in what the driver keeps.
_SAME_SIZE = 0.02


@dataclass(frozen=True)
class Cards:
    """The NVML indices of each server's GPUs, none for whatever CUDA shows first; `unused` are GPUs unlike the first."""

    servers: tuple[tuple[int, ...], ...] = ((),)
    unused: tuple[Gpu, ...] = ()

    @property
    def indices(self) -> tuple[int, ...]:
        """Of every GPU that serves. Plans are made for `hardware.of(indices)`: those alone, the fullest first."""
        return tuple(index for server in self.servers for index in server)

    def together(self, size: int) -> "Cards":
        """So many GPUs to a server; what is left over stays unused. Raises HardwareError where there are not so many."""
        there = len(self.servers)
        if there < size:
            raise HardwareError(
                f"--tensor-parallel-size {size}: so many cards that are alike share a server, and there "
                f"{'is one' if there == 1 else f'are {there}'} (--cards)."
            )
        whole = range(0, there - size + 1, size)
        return replace(self, servers=tuple(sum(self.servers[at : at + size], ()) for at in whole))


def choose(hardware: Hardware, wanted: int | None, *, on_gpu: bool) -> Cards:
    """`wanted` is how many are to serve; None for all that are alike. Raises HardwareError where there are not so many, or
    where they are not alike, and UsageError for more servers than a CPU has cores."""
    if not on_gpu and (wanted or 1) > hardware.cpu_count:
        raise UsageError(
            f"--cards {wanted}: this machine has {hardware.cpu_count} cores, which so many would only share."
        )
    if not on_gpu or not hardware.gpus:
        return Cards(((),) * (wanted or 1))
    alike = [gpu for gpu in hardware.gpus if _alike(gpu, hardware.gpus[0])]
    if wanted is not None and wanted > len(alike):
        raise HardwareError(_too_many(hardware.gpus, wanted, len(alike)))
    if len(hardware.gpus) == 1:
        return Cards()
    return Cards(tuple((gpu.index,) for gpu in alike[:wanted]), tuple(gpu for gpu in hardware.gpus if gpu not in alike))


def _alike(one: Gpu, other: Gpu) -> bool:
    same_size = abs(one.total_mib - other.total_mib) <= _SAME_SIZE * other.total_mib
    return one.name == other.name and same_size


def _too_many(gpus: tuple[Gpu, ...], wanted: int, alike: int) -> str:
    there = ", ".join(f"{gpu.index}: {gpu.name} ({gpu.total_mib:,} MiB)" for gpu in gpus)
    if wanted > len(gpus):
        return f"--cards {wanted}: this machine shows {len(gpus)} GPU{'s' * (len(gpus) > 1)} ({there})."
    return (
        f"--cards {wanted}: {alike} of the GPUs {'are' if alike > 1 else 'is'} like the first, and only cards that are alike "
        f"share a plan ({there}). Serve the others by a onecard of their own: CUDA_VISIBLE_DEVICES={gpus[-1].index} onecard "
        "serve --port 8010."
    )
