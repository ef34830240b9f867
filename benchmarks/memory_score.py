"""How right the memory plan is: `python -m benchmarks.memory_score benchmarks/results/memory-h200-vllm-0.32.0.json`.

The constants of the plan are fitted on every second point and scored on the others; both are printed, and so is the score of
the constants that are shipped. A point's peak is that of everything but the KV cache.
"""

import argparse
import json
import re
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.shapes import shape_config
from serving import memory
from serving.architecture import Shape, read_shape
from serving.memory import MEASURED, MIB, Constants, Load, Parts
from serving.weights import measure_weights

_GRAPHS = re.compile(r"took ([\d.]+) GiB")
# vLLM's own sizes where the points leave them to it: 1 to 32 each, or 1, 2, 4 and every eighth up to twice the sequences.
_INTERACTIVE_SIZES = 32


@dataclass(frozen=True)
class Point:
    """One measured start under load: what it was, its peak without the KV cache, and what the graphs took, in bytes."""

    name: str
    shape: Shape
    weights: int
    load: Load
    peak: int
    graphs: int
    reserved_over_used: int
    outside: int

    def predicted(self, constants: Constants) -> Parts:
        return memory.parts(self.shape, self.weights, self.load, constants)


def read_points(file: Path) -> list[Point]:
    """The points of a results file that lived; those that died say so there themselves."""
    return [_point(each) for each in json.loads(file.read_text(encoding="utf-8"))["points"] if "loaded" in each]


def _point(measured: dict[str, Any]) -> Point:
    config = shape_config(measured["size"], measured["precision"])
    shape = read_shape(config["architectures"][0], config)
    if shape is None:
        raise ValueError(f"{measured['name']}: no shape")
    args, loaded = measured["engine_args"], measured["loaded"]
    sequences = args["max_num_seqs"]
    sizes = _INTERACTIVE_SIZES if args["performance_mode"] == "interactivity" else 3 + 2 * sequences // 8
    kv = loaded["kv_cache"]
    peak = measured["peak_mib"] * MIB
    graphs = [
        float(found.group(1)) for line in measured["notes"] if "capturing" in line and (found := _GRAPHS.search(line))
    ]
    pool = loaded.get("graph_pool", loaded.get("cuda_graphs", 0))
    captured = round(graphs[-1] * 2**30) if graphs else pool
    return Point(
        name=measured["name"],
        shape=shape,
        weights=measure_weights(shape, config, {}).total,
        load=Load(
            max_num_seqs=sequences,
            max_num_batched_tokens=args["max_num_batched_tokens"],
            image_tokens=measured["max_image_pixels"] // shape.vision.pixels_per_token,
            cudagraph_sizes=sizes,
        ),
        peak=peak - kv,
        graphs=captured,
        reserved_over_used=loaded["reserved_peak"] - loaded["allocated_peak"],
        outside=peak - loaded["reserved_peak"] - (captured - pool),
    )


def fit(points: list[Point]) -> Constants:
    """The constants that these points say: each the median of what a point says of it; fragments as a line through their
    share of what comes and goes."""
    graphs = [point.graphs / (point.load.cudagraph_sizes * point.shape.text.layers) for point in points]
    transient = [_transient(point) for point in points]
    fragments = [point.reserved_over_used for point in points]
    share, fixed = statistics.linear_regression(transient, fragments) if len(points) > 1 else (0.0, fragments[0])
    return replace(
        MEASURED,
        context=round(statistics.median(point.outside for point in points)),
        graph_of_layer=statistics.median(graphs),
        fragments=round(max(0.0, fixed)),
        fragments_share=max(0.0, share),
    )


def _transient(point: Point) -> int:
    parts = point.predicted(MEASURED)
    return parts.activations + parts.vision_encoder + parts.encoder_cache + parts.logits


def table(points: list[Point], constants: Constants) -> list[str]:
    """A line a point: predicted and measured MiB, and by how much the prediction is off."""
    lines = [f"{'everything but the KV cache':<38}{'predicted':>10}{'measured':>10}{'off':>7}{'%':>7}"]
    for point in points:
        predicted, measured = point.predicted(constants).total / MIB, point.peak / MIB
        off = predicted - measured
        lines.append(f"{point.name:<38}{predicted:>10,.0f}{measured:>10,.0f}{off:>+7.0f}{100 * off / measured:>+7.1f}")
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_score", description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="a results file of benchmarks.memory")
    points = read_points(parser.parse_args().file)
    lines = ["shipped constants", *table(points, MEASURED)]
    small = [point for point in points if point.name.startswith("2b")]
    fitted_on, scored_on = small[::2], [*small[1::2], *(point for point in points if point not in small)]
    if fitted_on and scored_on:
        constants = fit(fitted_on)
        lines += ["", f"fitted: {constants}", *table(fitted_on, constants), "", "scored", *table(scored_on, constants)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
