"""How the weights lie in the GPU's memory: what torch's allocator holds for them beyond their own bytes.

Tensors do not fill its segments, and what repacking matrices of 4 bits releases leaves gaps among those that stay. Both follow
from the sizes and their order, so the weights are laid out on paper (`allocator.py`) as vLLM loads them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from serving.models.architecture import Shape, Text, Vision
from serving.models.weights import Quantization
from serving.planning.allocator import Allocator, Block

_BYTES_16_BIT, _BYTES_32_BIT = 2, 4
_GROUP = 128
# While it loads, vLLM has torch split no larger blocks (`_scoped_allocator_max_split`, v1/worker/gpu_worker.py).
_MAX_SPLIT_SIZE = 20 * 2**20


@dataclass(frozen=True)
class Layout:
    """Bytes: `rounding` by which blocks in use are larger than their tensors, and `gaps` that lie free between them."""

    rounding: int = 0
    gaps: int = 0


NO_LAYOUT = Layout()
# The compute capability on which vLLM takes Machete for 4 bits (kernels/linear/mixed_precision/machete.py); on others, Marlin.
MACHETE = "9.0"


@lru_cache(maxsize=64)
def layout(shape: Shape, quantization: Quantization | None, *, pictures: bool, machete: bool = False) -> Layout:
    """Of the weights of `shape`, in 16 bits where there is no `quantization`. `pictures`: whether the vision encoder is loaded.
    `machete`: whether vLLM takes that kernel for 4 bits, as it does on Hopper, and not Marlin.

    On an H200, vLLM 0.32 held 31 to 81 MiB of gaps more once it was ready, for 2B, 4B and 8B in 16 bits, FP8 and AWQ
    (benchmarks/results/memory-h200-vllm-0.32.0.json: 45 to 239 MiB)."""
    paper, text = _Paper(), shape.text
    seen = quantization if quantization and quantization.vision else None
    for weights in _vision(shape.vision) if pictures else ():
        paper.matrix(weights, seen)
    paper.matrix(text.embedding, None)
    layers = [(weights, paper.matrix(weights, quantization)) for _ in range(text.layers) for weights in _text(text)]
    if not text.tied:
        paper.matrix(text.embedding, None)
    if quantization and quantization.is_repacked:
        for weights, blocks in layers:
            paper.tensors += _repack(paper.memory, weights, blocks, quantization, machete=machete)
    used, gaps = paper.memory.held()
    return Layout(used - paper.tensors, gaps)


class _Paper:
    """The allocator, and the bytes of the tensors that stay in it."""

    def __init__(self) -> None:
        self.memory, self.tensors = Allocator(_MAX_SPLIT_SIZE), 0

    def matrix(self, weights: int, quantization: Quantization | None) -> list[Block]:
        """One of so many weights; where it is quantized in groups, then its zero points and scales."""
        sizes = [weights * (int(quantization.bits) if quantization else 16) // 8]
        if quantization and quantization.is_repacked:
            sizes += [weights // _GROUP // 2] if quantization.has_zero_points else []
            sizes += [weights // _GROUP * _BYTES_16_BIT]
        self.tensors += sum(sizes)
        return [self.memory.allocate(size) for size in sizes]


def _text(text: Text) -> Iterator[int]:
    """The weights of each matrix of one layer, as vLLM has them: query, key and value are one, gate and up too."""
    yield text.hidden_size * (text.heads + 2 * text.kv_heads) * text.head_dim
    yield text.heads * text.head_dim * text.hidden_size
    yield text.hidden_size * 2 * text.intermediate_size
    yield text.intermediate_size * text.hidden_size


def _vision(vision: Vision) -> Iterator[int]:
    """Those of the encoder, in the order of `Qwen3_VisionTransformer`."""
    width, merged = vision.hidden_size, vision.hidden_size * vision.patches_per_token
    yield vision.values_per_patch * width
    if vision.positions:
        yield vision.positions * width
    for _ in range(1 + vision.deepstack):
        yield merged * merged
        yield merged * vision.out_hidden_size
    for _ in range(vision.depth):
        yield 3 * width * width
        yield width * width
        yield width * vision.intermediate_size * (2 if vision.gated else 1)
        yield vision.intermediate_size * width


def _repack(memory: Allocator, weights: int, matrix: list[Block], quantization: Quantization, *, machete: bool) -> int:
    """What a kernel makes of a matrix of few bits, step by step; the bytes that it is larger then. AWQ's own order is undone
    first, at 32 bits a weight (`_convert_awq_to_standard_format`, auto_awq.py); then the matrix is written anew, from a
    transposed copy but for AWQ under Marlin (kernels/linear/mixed_precision)."""
    packed, groups = weights * int(quantization.bits) // 8, weights // _GROUP
    own_order = quantization.has_zero_points
    if own_order:
        unpacked, replaced = _unpacked(memory, weights * _BYTES_32_BIT, packed)
        zeros_unpacked, zeros_replaced = _unpacked(memory, groups * _BYTES_32_BIT, groups // 2, transposed=True)
        for block in (matrix[0], unpacked, matrix[1], zeros_unpacked):
            memory.release(block)
        matrix[:2] = replaced, zeros_replaced
    copied = memory.allocate(packed) if machete or not own_order else None
    written = memory.allocate(packed)
    memory.release(matrix[0])
    if copied:
        memory.release(copied)
    matrix[0] = written
    if not (machete and own_order):
        return 0
    passing = [memory.allocate(size) for size in (groups * _BYTES_32_BIT, *(2 * [groups * _BYTES_16_BIT]))]
    zeros = memory.allocate(groups * _BYTES_16_BIT)
    for block in (*passing, matrix[1]):
        memory.release(block)
    matrix[1] = zeros
    return groups * _BYTES_16_BIT - groups // 2


def _unpacked(memory: Allocator, unpacked: int, packed: int, *, transposed: bool = False) -> tuple[Block, Block]:
    """Shifted, masked, put in order, `transposed` or not, shifted back and summed up: copies after each other, of which the
    last but one stays until the end, and the packed result."""
    shifted = memory.allocate(unpacked)
    masked = memory.allocate(unpacked)
    memory.release(shifted)
    ordered = memory.allocate(unpacked)
    memory.release(masked)
    if transposed:
        turned = memory.allocate(unpacked)
        memory.release(ordered)
        ordered = turned
    shifted_back = memory.allocate(unpacked)
    result = memory.allocate(packed)
    memory.release(shifted_back)
    return ordered, result
