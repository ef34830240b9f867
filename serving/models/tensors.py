"""The headers of safetensors files: which tensors a checkpoint has, of which type and shape. No weight is read.

The format is https://huggingface.co/docs/safetensors: u64 header length (little endian), JSON header, data.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from serving.errors import CheckpointError
from serving.models.files import Files

# The format's own bound; a header of a real checkpoint is some hundred kB.
_LARGEST_HEADER_BYTES = 100 * 1000 * 1000
# What is asked for at first: the header of a model of this project's size comes whole with its length.
_FIRST_BYTES = 256 * 1024
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """`dtype` is the format's name of it, such as BF16, F8_E4M3 or I32."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def read_header(files: Files, name: str) -> dict[str, Tensor]:
    """The tensors of one safetensors file by their names, in at most two reads.

    Raises CheckpointError when the header contradicts the format or the file's size.
    """
    size = files.size(name)
    broken = f"{files.where}/{name} is broken or cut off ({size:,} bytes): "
    begin = files.read(name, 0, min(size, _FIRST_BYTES))
    if len(begin) < 8:
        raise CheckpointError(f"{broken}it is shorter than a header. {files.remedy}")
    end = 8 + int(struct.unpack_from("<Q", begin)[0])
    if end > size:
        raise CheckpointError(f"{broken}its header is longer than the file. {files.remedy}")
    if end > _LARGEST_HEADER_BYTES:
        raise CheckpointError(f"{broken}its header would be {end - 8:,} bytes. {files.remedy}")
    text = begin[8:end]
    if end > len(begin):
        text += files.read(name, len(begin), end - len(begin))
    try:
        header = json.loads(text)
        entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
        tensors = {key: _tensor(entry) for key, entry in entries.items()}
        promised = end + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{broken}its header is not what safetensors prescribes. {files.remedy}") from error
    if promised != size:
        raise CheckpointError(f"{broken}its header promises {promised:,} bytes. {files.remedy}")
    return tensors


def _tensor(entry: dict[str, Any]) -> Tensor:
    """Raises ValueError, KeyError or TypeError for an entry that describes no tensor. A type that is newer than this
    table passes: its bytes are what counts."""
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not all(_is_count(number) for number in (begin, end, *shape)) or end < begin:
        raise ValueError(f"{dtype!r} {shape!r} from {begin!r} to {end!r} is no tensor")
    if dtype in _BITS and math.prod(shape) * _BITS[dtype] != 8 * (end - begin):
        raise ValueError(f"{dtype} {shape} does not take {end - begin} bytes")
    return Tensor(dtype, tuple(shape), end - begin)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
