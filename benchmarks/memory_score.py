"""How right the memory plan is: `python -m benchmarks.memory_score benchmarks/results/memory-h200-vllm-0.32.0.json`.

The constants of the plan are fitted on every second point of the 2B and scored on all the others; both are printed, and so is
the score of the constants that are shipped. A point's peak is that of everything but the KV cache.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.memory_results import is_measured
from benchmarks.shapes import shape_config
from serving.engine.measured import fragments, in_parts
from serving.models.architecture import Shape, Text, read_shape
from serving.models.weights import measure_weights
from serving.planning import memory
from serving.planning.layout import Layout, layout
from serving.planning.memory import MEASURED, MIB, Constants, Load, Parts

# What a prediction may be off by: of the whole within a share or so many MiB, never more than so many under; of a part.
WITHIN, WITHIN_MIB, UNDER_MIB = 0.08, 150, 50
PART_WITHIN, PART_WITHIN_MIB = 0.15, 100
# A prediction may be over by more than it may be under: it aims at the middle.
_AIM = (WITHIN_MIB - UNDER_MIB) // 2 * MIB
_GRAPHS = re.compile(r"took ([\d.]+) GiB")
# vLLM's own sizes where the points leave them to it: 1 to 32 each, or 1, 2, 4 and every eighth up to twice the sequences.
_INTERACTIVE_SIZES = 32


@dataclass(frozen=True)
class Point:
    """One measured start under load: what it was, its peak without the KV cache, what the driver held (context and graphs) and
    what the parts took, in bytes. `shipped` are the plan's constants for its allocator. `starting` is the most that it held
    before it was ready, None where that was not told apart. `graphs` is None for a point that was measured beside others,
    since vLLM's account of them is of the whole device; `parts` is empty for a point that did not measure them."""

    name: str
    shape: Shape
    weights: int
    load: Load
    layout: Layout
    expandable_segments: bool
    shipped: Constants
    peak: int
    kv_cache: int
    starting: int | None
    graphs: int | None
    fragments: int
    driver: int
    parts: dict[str, int]

    def predicted(self, constants: Constants) -> Parts:
        return memory.parts(self.shape, self.weights, self.load, constants, layout=self.layout)

    def off_mib(self, constants: Constants) -> float:
        """MiB by which the prediction is above the measured peak."""
        return (self.predicted(constants).total - self.peak) / MIB

    def holds(self, constants: Constants) -> bool:
        """Whether the whole is as near as it has to be."""
        off = self.off_mib(constants)
        return -UNDER_MIB <= off <= max(WITHIN_MIB, WITHIN * self.peak / MIB)

    def starts_within(self, constants: Constants) -> bool:
        """Whether its start took no more than was planned of the card."""
        return self.starting is None or self.starting <= self.predicted(constants).total + self.kv_cache


def read_points(file: Path) -> list[Point]:
    """The points of a results file that lived; those that died say so there themselves."""
    results = json.loads(file.read_text(encoding="utf-8"))
    return [_point(each, results.get("vllm", "")) for each in results["points"] if "loaded" in each]


def _point(measured: dict[str, Any], vllm: str) -> Point:
    config = shape_config(measured["size"], measured["precision"])
    shape = read_shape(config["architectures"][0], config)
    if shape is None:
        raise ValueError(f"{measured['name']}: no shape")
    args, loaded = measured["engine_args"], measured["loaded"]
    weights, marlin = measure_weights(shape, config, {}), measured.get("marlin", False)
    sequences = args["max_num_seqs"]
    sizes = _INTERACTIVE_SIZES if args["performance_mode"] == "interactivity" else 3 + 2 * sequences // 8
    peak = measured["peak_mib"] * MIB
    told = [
        float(found.group(1)) for line in measured["notes"] if "capturing" in line and (found := _GRAPHS.search(line))
    ]
    pool = loaded["graph_pool"]
    driver = peak - loaded["reserved_peak"] + pool
    alone = measured.get("at_once", 1) == 1
    graphs = (round(told[-1] * 2**30) if told else pool) if alone else None
    return Point(
        name=measured["name"],
        shape=shape,
        weights=weights.total
        + _more_rotary_tables(vllm) * memory.rotary_table(shape.text)
        + (_zero_points(shape.text) if measured["precision"] == "awq" and not marlin else 0),
        load=Load(
            max_num_seqs=sequences,
            max_num_batched_tokens=args["max_num_batched_tokens"],
            image_tokens=measured["max_image_pixels"] // shape.vision.pixels_per_token,
            cudagraph_sizes=sizes,
            sixteen_bit=weights.is_sixteen_bit,
        ),
        layout=layout(shape, weights.quantization, pictures=True, machete=not marlin),
        expandable_segments=measured.get("expandable_segments", False),
        shipped=_shipped(vllm, expandable_segments=measured.get("expandable_segments", False)),
        peak=peak - loaded["kv_cache"],
        kv_cache=loaded["kv_cache"],
        starting=measured["starting_peak_mib"] * MIB if "starting_peak_mib" in measured else None,
        graphs=graphs,
        fragments=fragments(loaded),
        driver=driver,
        parts=_parts(measured, graphs, driver) if is_measured(measured) else {},
    )


def _more_rotary_tables(vllm: str) -> int:
    """vLLM 0.26 has the cosines and sines of four times as many positions as the model knows (`MRotaryEmbedding`, mrope.py)."""
    return 3 if vllm.startswith("0.26.") else 0


def _shipped(vllm: str, *, expandable_segments: bool) -> Constants:
    """The plan's constants; of vLLM 0.26, whose torch gives cuBLAS half the workspace."""
    constants = replace(MEASURED, cublas=MEASURED.cublas // 2) if vllm.startswith("0.26.") else MEASURED
    return constants if expandable_segments else memory.with_fixed_segments(constants)


def _zero_points(text: Text) -> int:
    """By how much AWQ's zero points are larger on Hopper, where Machete keeps them at 16 bits a group of 128 weights; Marlin,
    which consumer cards take, keeps 4."""
    return text.body.linear * 12 // 8 // 128


def _parts(measured: dict[str, Any], graphs: int | None, driver: int) -> dict[str, int]:
    """Bytes by the plan's names: what lasts as it was before the first request, the allocator's peaks after the load. Names
    joined by a plus are parts that were not told apart."""
    peaks = {name: measured["loaded"][name] for name in ("reserved_peak", "allocated_peak")}
    found = in_parts(measured["started"] | peaks, measured["transients"], graphs)
    left_out = {"kv_cache", "context"}
    if graphs is None:
        left_out.add("cuda_graphs")
    # vLLM 0.26's V2 model runner does not run the encoder where memory is profiled.
    if not measured["transients"]["vision_encoder"]:
        left_out |= {"vision_encoder", "encoder_cache"}
    last = {"context+cuda_graphs": driver} if graphs is None else {"context": driver - graphs}
    return {name: mib * MIB for name, mib in found.items() if name not in left_out} | last


def fit(points: Sequence[Point]) -> Constants:
    """The constants that these points say: each the median of what a point says of it, but above every point what differs
    from one to the next, since too little of it ends an engine: the workspace, and the fragments beside those that follow from
    sizes, a line along their share of what comes and goes. The workspace gets `_AIM` more."""
    shipped = points[0].shipped
    told = [point.graphs / _captured(point) for point in points if point.graphs is not None]
    graph_of_layer = statistics.median(told) if told else shipped.graph_of_layer
    transient = [_transient(point) for point in points]
    beside = [point.fragments - point.layout.gaps - memory.outgrown(point.shape, point.load) for point in points]
    share = max(0.0, statistics.linear_regression(transient, beside).slope) if len(set(transient)) > 1 else 0.0
    fixed = max(found - share * need for found, need in zip(beside, transient, strict=True))
    more = [point.parts["buffers"] - point.predicted(shipped).buffers for point in points if point.parts]
    return replace(
        shipped,
        workspace=max(0, shipped.workspace + max(more, default=0) + _AIM),
        context=round(statistics.median(point.driver - _captured(point) * graph_of_layer for point in points)),
        graph_of_layer=graph_of_layer,
        fragments=round(max(0.0, fixed)),
        fragments_share=share,
    )


def _captured(point: Point) -> int:
    """How many graphs of a layer it has."""
    return point.load.cudagraph_sizes * point.shape.text.layers


def _transient(point: Point) -> int:
    parts = point.predicted(point.shipped)
    return parts.activations + parts.vision_encoder + parts.encoder_cache + parts.logits


def halves(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Those on which constants are fitted, and those on which they are scored: every second one of the 2B, and all others."""
    small = [point for point in points if point.name.startswith("2b")]
    return small[::2], [*small[1::2], *(point for point in points if point not in small)]


def table(points: Sequence[Point], constants: Constants) -> Iterator[str]:
    """A line a point, predicted and measured MiB of everything but the KV cache; then one a part, where it is furthest off;
    then how many are as near as they have to be."""
    yield f"{'everything but the KV cache':<38}{'predicted':>10}{'measured':>10}{'off':>7}{'%':>7}"
    for point in points:
        measured, off = point.peak / MIB, point.off_mib(constants)
        mark = "" if point.holds(constants) else "  !"
        yield f"{point.name:<38}{measured + off:>10,.0f}{measured:>10,.0f}{off:>+7.0f}{100 * off / measured:>+7.1f}{mark}"
    for name, (point, predicted, found, holds) in _worst_parts(points, constants).items():
        off, mark = predicted - found, "" if holds else "  !"
        yield f"  {name + ', ' + point.name:<36}{predicted:>10,.0f}{found:>10,.0f}{off:>+7.0f}{mark}"
    over = [point.name for point in points if not point.starts_within(constants)]
    if over:
        yield f"held more than was planned while it started: {'; '.join(over)}"
    near = sum(point.holds(constants) for point in points)
    yield f"{near} of {len(points)} within {WITHIN:.0%} or {WITHIN_MIB} MiB and at most {UNDER_MIB} MiB under"


def _worst_parts(points: Sequence[Point], constants: Constants) -> dict[str, tuple[Point, float, float, bool]]:
    """For each part the point where it is furthest off: predicted and measured MiB, and whether that is near enough."""
    worst: dict[str, tuple[Point, float, float, bool]] = {}
    for point in points:
        predicted = point.predicted(constants).model_dump()
        for name, found in point.parts.items():
            pair = (sum(predicted[each] for each in name.split("+")) / MIB, found / MIB)
            off = abs(pair[0] - pair[1])
            if name not in worst or off > abs(worst[name][1] - worst[name][2]):
                worst[name] = (point, *pair, off <= max(PART_WITHIN_MIB, PART_WITHIN * pair[1]))
    return worst


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_score", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="a results file of benchmarks.memory")
    points = read_points(parser.parse_args().file)
    lines = ["shipped constants", *table(points, points[0].shipped if points else MEASURED)]
    fitted_on, scored_on = halves(points)
    if fitted_on and scored_on:
        constants = fit(fitted_on)
        lines += ["", f"fitted: {constants}", *table(fitted_on, constants), "", "scored", *table(scored_on, constants)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
