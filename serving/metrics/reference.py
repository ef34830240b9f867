"""`python -m serving.metrics.reference`: writes docs/metrics.md from the catalog. A test compares the two."""

import sys
from pathlib import Path

from serving.metrics import catalog
from serving.metrics.catalog import Metric

PAGE = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
_HEAD = """\
# Metrics

Written by `python -m serving.metrics.reference` from `serving/metrics/catalog.py`; a test compares the two.

onecard's own metrics begin with `onecard_`. They are found in two places:

- `http://HOST:8000/metrics`, the server: they stand beside vLLM's own (`vllm:…`). With API keys configured it needs one.
- `http://127.0.0.1:8001/metrics`, the exporter (`onecard exporter`): it goes on answering when the engine does not.

Counters begin at 0 when their process starts, as Prometheus expects. What both expose (state, plan) is the same in both:
the rules in `deploy/prometheus/` take the larger of the two, by `machine`.
"""
_SECTIONS: tuple[tuple[str, str, tuple[Metric, ...]], ...] = (
    ("Requests, answers and pictures", "On the server, recorded as requests pass.", catalog.RECORDED),
    (
        "State and plan",
        "On the server (also while the engine loads) and on the exporter, from `/onecard/status`. While nobody answers there, "
        "the exporter tells the state and the last start's plan and nothing else; where its look at the server hangs, neither.",
        catalog.FROM_STATUS,
    ),
    ("The machine", "On the exporter.", catalog.OF_HOST),
    (
        "The GPU",
        "On the exporter, by NVML, read once a second. What a card or driver does not tell is left out; without NVML only "
        "`onecard_nvml_up` is there, and it is 0.",
        catalog.OF_GPU,
    ),
)


def page() -> str:
    """The page, in Markdown."""
    return _HEAD + "".join(
        f"\n## {title}\n\n{where}\n\n| metric | kind | labels | what it says |\n|---|---|---|---|\n"
        + "".join(map(_row, metrics))
        + "".join(map(_bounds, metrics))
        for title, where, metrics in _SECTIONS
    )


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


def _bounds(metric: Metric) -> str:
    return (
        f"\nBuckets of `{metric.name}`: {', '.join(f'{bound:,.15g}' for bound in metric.bounds)}.\n"
        if metric.bounds
        else ""
    )


def main() -> None:
    """Writes the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
