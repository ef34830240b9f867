"""torch's allocator on paper, and what the weights of Qwen3-VL leave free in it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.memory_score import read_points
from benchmarks.shapes import Precision, Size, shape_config
from serving.models.architecture import Shape, read_shape
from serving.models.weights import Quantization, quantization_of
from serving.planning.allocator import Allocator
from serving.planning.layout import layout
from serving.planning.memory import MIB

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
# What an H200 had of gaps more when it was ready than follows from the weights alone.
MORE_MIB = (25, 90)


def of(size: Size, precision: Precision) -> tuple[Shape, Quantization | None]:
    config = shape_config(size, precision)
    shape = read_shape(config["architectures"][0], config)
    assert shape is not None
    return shape, quantization_of(config)


def test_requests_share_segments_or_have_one_of_their_own() -> None:
    memory = Allocator(2**40)
    for size, used, free in (
        (1, 512, 2 * MIB - 512),  # small ones share 2 MiB
        (MIB, MIB + 512, MIB - 512),
        (8 * MIB, 9 * MIB + 512, 13 * MIB - 512),  # medium ones 20
        (12 * MIB, 21 * MIB + 512, MIB - 512),  # what is left of it is enough
        (95 * MIB, 117 * MIB + 512, MIB - 512),  # a large one has 96, and 1 is not split off
    ):
        memory.allocate(size)
        assert memory.held() == (used, free), size


def test_what_is_released_is_found_again_and_a_whole_segment_is_no_gap() -> None:
    memory = Allocator(2**40)
    first, second = memory.allocate(8 * MIB), memory.allocate(8 * MIB)
    memory.release(first)
    assert memory.held() == (8 * MIB, 12 * MIB)
    assert memory.allocate(8 * MIB) is first
    memory.release(second)
    memory.release(first)
    assert memory.held() == (0, 0)
    assert memory.allocate(20 * MIB).size == 20 * MIB


def test_a_block_at_the_limit_is_not_split() -> None:
    memory = Allocator(20 * MIB)
    memory.release(memory.allocate(40 * MIB))
    memory.allocate(5 * MIB)
    assert memory.held() == (5 * MIB, 15 * MIB)  # of a segment of its own
    memory.allocate(30 * MIB)
    assert memory.held() == (45 * MIB, 15 * MIB)  # the whole block, since it is nearly as small


@given(st.lists(st.tuples(st.integers(1, 64 * MIB), st.integers(0, 50)), max_size=60))
def test_nothing_is_lost(steps: list[tuple[int, int]]) -> None:
    memory, held = Allocator(20 * MIB), []
    for size, released in steps:
        held.append((memory.allocate(size), size))
        if released < len(held):
            memory.release(held.pop(released)[0])
        used, free = memory.held()
        assert used == sum(block.size for block, _ in held)
        assert used >= sum(size for _, size in held)
        assert free >= 0
    for block, _ in held:
        memory.release(block)
    assert memory.held() == (0, 0)


@pytest.mark.parametrize("point", json.loads((RESULTS / "memory-h200-vllm-0.32.0.json").read_text())["points"])
def test_an_h200_had_these_gaps_when_it_was_ready(point: dict[str, dict[str, int]]) -> None:
    shape, quantization = of(point["size"], point["precision"])  # type: ignore[arg-type]
    found = layout(shape, quantization, pictures=True, machete=True)
    started = point["started"]
    tried = 64 * MIB  # a first allocation from a segment that grows
    gaps = started["reserved"] - started["allocated"] - started["graph_pool"] - tried
    more = (gaps - found.gaps) / MIB
    assert MORE_MIB[0] <= more <= MORE_MIB[1]


def test_every_part_of_every_point_is_as_near_as_it_has_to_be() -> None:
    for point in read_points(RESULTS / "memory-h200-vllm-0.32.0.json"):
        assert point.holds(point.shipped), point.name
        predicted = point.predicted(point.shipped).model_dump()
        for name, found in point.parts.items():
            off = abs(sum(predicted[each] for each in name.split("+")) - found)
            assert off <= max(100 * MIB, 0.15 * found), (point.name, name)


def test_other_formats_leave_other_gaps() -> None:
    shape, awq = of("4b", "awq")
    hopper, marlin = (layout(shape, awq, pictures=True, machete=machete) for machete in (True, False))
    assert hopper.gaps > marlin.gaps > 0
    packed = Quantization("compressed-tensors W4", 4.125, vision=False, head=False)
    assert layout(shape, packed, pictures=True) != marlin
    assert layout(shape, packed, pictures=False) != layout(shape, packed, pictures=True)
    # The gate and up projections of 36 layers have 95 MiB, and blocks of 96; the down projections 47.5, and 48.
    assert round(layout(shape, None, pictures=True).rounding / MIB) == 36 + 18
