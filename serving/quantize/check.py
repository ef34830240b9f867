"""What can be known to fail before anything is computed: the model, its sizes, the card, the folder, disk and memory.

Needs no weight and no library: headers, numbers and the operating system.
"""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from serving.errors import CheckpointError, DiskFullError, DoesNotFitError, HardwareError, UsageError
from serving.machine.hardware import Hardware
from serving.models.architecture import KNOWN, QWEN3_5, Shape, read_shape
from serving.models.checkpoint import Checkpoint
from serving.quantize.scheme import Scheme, load_schemes

MIB = 2**20
# Python, torch, llm-compressor and its imports: 1.3 GB resident before a model is loaded, measured with 0.14.
_LIBRARIES_MIB = 1500
# vLLM's 4-bit and 8-bit kernels work on blocks of 64 output and 128 input channels (Marlin, gptq_marlin.cuh).
_BLOCK_OUT, _BLOCK_IN = 64, 128


@dataclass(frozen=True)
class Needs:
    """What a run takes at most, in MiB. `disk` where the result goes: the result and, for each layer, what is kept to go
    on from; `memory` of the machine; the GPU holds one layer at a time."""

    disk: int
    memory: int


def check_model(where: Path | str, checkpoint: Checkpoint, scheme: Scheme) -> Shape:
    """The model's shape, by its config alone. Raises CheckpointError for one that is quantized already or is not known, and
    UsageError where the scheme does not go into its matrices."""
    quantized = checkpoint.config.get("quantization_config") or checkpoint.config.get("text_config", {}).get(
        "quantization_config"
    )
    if quantized:
        method = quantized.get("quant_method", "an unknown method") if isinstance(quantized, dict) else "unknown"
        raise CheckpointError(
            f"{where} is quantized already ({method}). Quantize its 16-bit original: rounding twice loses more than once. "
            "To put only its output head into 8 bits: `onecard requantize-head`."
        )
    shape = read_shape(checkpoint.architecture, checkpoint.config)
    if shape is None or checkpoint.architecture == QWEN3_5:
        known = ", ".join(name for name in KNOWN if name != QWEN3_5)
        raise CheckpointError(
            f"{where} is a {checkpoint.architecture}, which onecard cannot quantize; it knows {known}. "
            "A checkpoint that somebody else has quantized can be served as it is."
        )
    _check_sizes(shape, scheme)
    return shape


def check_weights(where: Path, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a folder without weights."""
    if not checkpoint.tensors:
        raise CheckpointError(f"{where} holds no weights (no *.safetensors). Download the model whole.")


def _check_sizes(shape: Shape, scheme: Scheme) -> None:
    text = shape.text
    inputs = {text.hidden_size, text.intermediate_size, text.heads * text.head_dim}
    outputs = {text.kv_heads * text.head_dim, *inputs}
    group = scheme.group_size or 1
    if odd := sorted(size for size in inputs if size % group):
        fitting = [size for size in (128, 64, 32) if not any(each % size for each in inputs)]
        advice = (
            f"Groups of {fitting[0]} would fit: take a scheme with them" if fitting else "Take a scheme without groups"
        )
        raise UsageError(
            f"Groups of {group} channels do not divide this model's matrices, which have {_listed(odd)} input channels. "
            f"{advice}."
        )
    block = _BLOCK_IN if scheme.bits == 4 else 16
    wrong = sorted({size for size in inputs if size % block} | {size for size in outputs if size % _BLOCK_OUT})
    if wrong:
        raise UsageError(
            f"vLLM's kernels for this scheme take matrices of whole blocks ({block} input and {_BLOCK_OUT} output "
            f"channels); this model has {_listed(wrong)} channels. It has to be served at 16 bits."
        )


def _listed(sizes: list[int]) -> str:
    return " and ".join(f"{size:,}" for size in sizes)


def check_card(scheme: Scheme, name: str, hardware: Hardware) -> None:
    """Raises HardwareError where the GPU that is here has no kernel for the scheme; without a GPU anything can be made."""
    if not hardware.gpus:
        return
    gpu = hardware.gpus[0]
    if not _runs(scheme, gpu.compute_capability):
        others = ", ".join(other for other, each in load_schemes().items() if _runs(each, gpu.compute_capability))
        raise HardwareError(
            f"{gpu.name} (compute capability {gpu.compute_capability}) cannot run {name}: it needs "
            f"{scheme.compute_capability} or newer. This card runs {others or 'none of the schemes'}. To make it for another "
            "machine, add --for-another-card."
        )


def check_proof(scheme: Scheme, name: str, hardware: Hardware) -> None:
    """Raises HardwareError where the result could not be served here, so that its proof would fail after all the work."""
    if not hardware.gpus and not scheme.runs_on_cpu:
        others = ", ".join(other for other, each in load_schemes().items() if each.runs_on_cpu)
        raise HardwareError(
            f"There is no GPU here, and vLLM has no CPU kernel for {name}: what is made of it cannot be proven here. Take one "
            f"of {others}, or add --no-evaluation and run `onecard evaluate` on a machine with a GPU."
        )


def _runs(scheme: Scheme, compute_capability: str) -> bool:
    return _version(compute_capability) >= _version(scheme.compute_capability)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def needs(checkpoint: Checkpoint, shape: Shape, scheme: Scheme, cached_mib: int = 0) -> Needs:
    """`cached_mib`: the activations between two layers, which stay in memory."""
    weights = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    smaller = shape.text.body.linear * scheme.weight_bits / 8
    result = weights - shape.text.body.linear * 2 + smaller + (shape.text.embedding if scheme.head else 0)
    # A finished layer is kept at 16 bits until the end; then the library writes the result once, and it is put together.
    kept = shape.text.body.total * 2 if scheme.calibrated else 0
    return Needs(
        disk=round((2 * result + kept) / MIB),
        memory=round(weights / MIB) + cached_mib + _LIBRARIES_MIB,
    )


def check_room(needed: Needs, out: Path, available_mib: int) -> None:
    """Raises DiskFullError or DoesNotFitError. `available_mib`: memory of the machine that is free now."""
    parent = next(folder for folder in (out, *out.parents) if folder.exists())
    free = shutil.disk_usage(parent).free // MIB
    if free < needed.disk:
        raise DiskFullError(
            f"Quantizing takes up to {needed.disk:,} MiB of disk at {parent}, and {free:,} MiB are free. Free some, or "
            "choose another place with --out. Nothing was begun."
        )
    if available_mib < needed.memory:
        raise DoesNotFitError(
            f"Quantizing takes about {needed.memory:,} MiB of memory (the 16-bit weights, the activations between two "
            f"layers, the library), and {available_mib:,} MiB are free. Close other programs, or calibrate on less: --samples."
        )


def check_out(out: Path) -> None:
    """Raises UsageError where something is in the way, OnecardError's kin where nothing can be written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and not empty. Name another folder with --out, or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"{out.parent} cannot be made: no space is left there.") from error
        raise UsageError(f"{out.parent} cannot be made ({error.strerror}). Name another folder with --out.") from error
