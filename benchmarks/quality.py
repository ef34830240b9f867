"""What quantizing costs in answers: `results/quality.json`, and the table that is made of it.

`python -m benchmarks.quality --reference FOLDER NAME=FOLDER …` serves each in turn, asks all the same held-out questions and
compares each with the reference. Interrupted, the same command goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path

from pydantic import BaseModel

from serving.demo.evaluate import served_by
from serving.evaluate.command import Suite, evaluate
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.quantize.scheme import load_schemes

FILE = "quality.json"
_DEFAULT_GATE = 1.5


class Row(BaseModel):
    """One checkpoint against the reference; losses in points."""

    scheme: str
    weights_mb: float
    gate_points: float
    questions: int
    right: int
    right_reference: int
    lost: int
    won: int
    loss_points: float
    bootstrap_95_points: tuple[float, float]
    score_95_points: tuple[float, float]
    mcnemar_p: float
    agreement: float
    kl_nats: float | None
    kl_tokens: int

    @property
    def upper_points(self) -> float:
        return max(self.bootstrap_95_points[1], self.score_95_points[1])


class Quality(BaseModel):
    """`results/quality.json`."""

    date: str
    vllm: str
    command: str
    suite: str
    reference_mb: float
    rows: list[Row]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+", metavar="SCHEME=FOLDER")
    parser.add_argument("--reference", required=True, help="the 16-bit checkpoint")
    parser.add_argument("--count", type=int, default=4000, help="held-out questions (default 4000)")
    parser.add_argument("--profile", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / FILE)
    options = parser.parse_args(arguments)
    suite, gates = Suite(None, options.count), load_schemes()
    rows = []
    for named in options.checkpoints:
        scheme, _, folder = named.partition("=")
        found = evaluate(folder, options.reference, suite, options.profile)
        gate = gates[scheme].gate_points if scheme in gates else _DEFAULT_GATE
        rows.append(Row(scheme=scheme, weights_mb=megabytes(folder), gate_points=gate, **found.as_json()))
        sys.stdout.write(f"{scheme}\n{found.as_text()}\n\n")
    names = " ".join(f"{row.scheme}=FOLDER" for row in rows)
    quality = Quality(
        date=date.today().isoformat(),
        vllm=served_by(),
        command=f"python -m benchmarks.quality --reference FOLDER --count {options.count} {names}",
        suite=suite.name,
        reference_mb=megabytes(options.reference),
        rows=rows,
    )
    options.out.write_text(json.dumps(quality.model_dump(), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"written to {options.out}\n")


def megabytes(folder: str) -> float:
    """What the weights take on the disk, by their headers."""
    tensors = read_checkpoint(Folder(Path(folder))).tensors
    return round(sum(tensor.nbytes for tensor in tensors.values()) / 1e6, 2)


def measured(results: Path, table: Callable[[Sequence[str], Iterable[Sequence[str]]], str]) -> str:
    """The table for the documents."""
    file = results / FILE
    if not file.is_file():
        return "Not measured yet."
    quality = Quality.model_validate_json(file.read_text(encoding="utf-8"))
    heads = (
        "scheme",
        "weights",
        "right",
        "loss (points)",
        "95% interval",
        "at most",
        "gate",
        "same answer",
        "KL a token",
    )
    first = quality.rows[0]
    rows = [
        (
            "16 bits",
            f"{quality.reference_mb:.1f} MB",
            _share(first.right_reference, first.questions),
            *["–"] * 4,
            "100%",
            "–",
        ),
        *(_cells(row) for row in quality.rows),
    ]
    said = (
        f"{quality.suite}, each asked of both checkpoints, served by {quality.vllm} on the CPU on {quality.date} "
        f"(`{quality.command}`). Intervals are of the paired bootstrap; `at most` is the larger of its upper bound and the "
        "score interval's, which is what the gate looks at."
    )
    return f"{said[0].upper()}{said[1:]}\n\n{table(heads, rows)}"


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.bootstrap_95_points
    within = "within" if row.upper_points < row.gate_points else "**above**"
    return (
        f"`{row.scheme}`",
        f"{row.weights_mb:.1f} MB",
        _share(row.right, row.questions),
        f"{row.loss_points:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{row.upper_points:+.2f}",
        f"{within} {row.gate_points:g}",
        f"{row.agreement:.2%}",
        "–" if row.kl_nats is None else f"{row.kl_nats:.5f}",
    )


def _share(right: int, of: int) -> str:
    return f"{right / of:.2%} ({right:,}/{of:,})"


if __name__ == "__main__":
    main()
