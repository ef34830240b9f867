"""The plot of a run, as SVG beside its JSON: `python -m benchmarks.plot results/speed-cpu.json`.

Needs matplotlib, which a machine that only measures may lack; the JSON can be plotted elsewhere.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.results import Run

# What is shown, from left to right: question, case (None for each), figure, its axis, and whether more is better.
_PANELS = (
    ("latency", "1 client", "first_token_ms", "first token, ms", False),
    ("latency", "1 client", "total_ms", "whole answer, ms", False),
    ("throughput", None, "images_per_s", "images/s", True),
)


def plot(file: Path) -> Path | None:
    """Draws what the run has of the panels; None where it has none of them."""
    from matplotlib.figure import Figure

    run = Run.model_validate_json(file.read_text(encoding="utf-8"))
    panels = [panel for panel in _PANELS if _bars(run, panel[0], panel[1], panel[2])]
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for axes, (question, case, name, axis, more) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        bars = _bars(run, question, case, name)
        labels, values = [label for label, _ in bars], [value for _, value in bars]
        colors = ["#c44e2b" if label.startswith("onecard") else "#8c9bab" for label in labels]
        drawn = axes.barh(labels, values, color=colors)
        axes.bar_label(drawn, fmt="%g", padding=3, fontsize=8)
        axes.margins(x=0.18)
        axes.invert_yaxis()
        axes.set_title(f"{axis} ({'more' if more else 'less'} is better)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    gpu = run.machine.get("gpu", run.machine["cpu"])
    figure.suptitle(f"{run.model} on {gpu}, {run.date}", fontsize=10)
    target = file.with_suffix(".svg")
    figure.savefig(target, metadata={"Date": None})
    return target


def try_to_plot(file: Path) -> None:
    """Plots, or says how to do it elsewhere."""
    if find_spec("matplotlib") is None:
        sys.stdout.write(f"no plot without matplotlib; where it is: python -m benchmarks.plot {file}\n")
    elif target := plot(file):
        sys.stdout.write(f"plotted to {target}\n")


def _bars(run: Run, question: str, case: str | None, name: str) -> list[tuple[str, float]]:
    """Label and value of each contender; where every case is shown, the one with the most clients."""
    rows = [row for row in run.rows if row.question == question and name in row.medians and "again" not in row.case]
    wanted = case or (rows[-1].case if rows else "")
    return [
        (run.contenders[row.contender].title + ("" if case else f"\n{wanted}"), row.medians[name])
        for row in rows
        if row.case == wanted
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    for name in sys.argv[1:] if arguments is None else arguments:
        try_to_plot(Path(name))


if __name__ == "__main__":
    main()
