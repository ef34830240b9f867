"""`onecard plan --matrix`: which models and precisions each card carries, and how well. Every cell is a plan of its own."""

import json
from collections.abc import Iterator

from serving.hub import resolve_model
from serving.machine.hardware import Hardware
from serving.planning.plan import Plan
from serving.planning.planner import Subject
from serving.planning.profile import load_models, load_profiles, shape_dir

_NOBODY = Hardware(gpus=(), driver_version=None, nvml_problem="not asked", ram_mib=0, cpu_count=0, wsl=False)


def plans() -> Iterator[Plan]:
    """The plan of each shipped model on each shipped card, the small cards first."""
    cards = [(name, profile) for name, profile in load_profiles().items() if profile.gpu is not None]
    cards.sort(key=lambda each: each[1].gpu.memory_mib if each[1].gpu else 0)
    models = [name for name in load_models() if shape_dir(name)]
    resolved = {name: resolve_model(name) for name in models}
    checkpoints = {name: resolved[name].checkpoint() for name in models}
    for card, profile in cards:
        for name in models:
            yield Subject(card, profile, name, resolved[name].model, checkpoints[name], _NOBODY).plan()


def as_json() -> str:
    """A list with an object for each card and model."""
    return json.dumps([_cell(plan) for plan in plans()], indent=2)


def as_text() -> str:
    """A table: models down, cards across. A cell has thousands of KV tokens and the expected tokens per second."""
    cells = {(plan.model, plan.profile): plan for plan in plans()}
    models = list(dict.fromkeys(model for model, _ in cells))
    cards = list(dict.fromkeys(card for _, card in cells))
    # Cards of the same memory and bandwidth say the same; one column each is enough.
    columns: dict[tuple[str, ...], list[str]] = {}
    for card in cards:
        columns.setdefault(tuple(_short(cells[model, card]) for model in models), []).append(card)
    lines = [
        "Thousands of KV tokens and expected tokens/s for one client; * with something given up; – does not fit.",
        "",
    ]
    for number, same in enumerate(columns.values(), start=1):
        lines.append(f"  {number:>2}  {', '.join(same)}")
    lines += ["", " " * 20 + "".join(f"{number:>12}" for number in range(1, len(columns) + 1))]
    for row, model in enumerate(models):
        lines.append(f"{model:<20}" + "".join(f"{column[row]:>12}" for column in columns))
    return "\n".join(lines)


def _short(plan: Plan) -> str:
    if not plan.fits:
        return "–"
    return f"{plan.capacity.kv_tokens / 1000:.0f}k {plan.expected.decode_tokens_per_s or 0:.0f}" + "*" * bool(
        plan.given_up
    )


def _cell(plan: Plan) -> dict[str, object]:
    return {
        "profile": plan.profile,
        "model": plan.model,
        "precision": plan.precision,
        "fits": plan.fits,
        "kv_tokens": plan.capacity.kv_tokens,
        "max_model_len": plan.capacity.max_model_len,
        "max_image_pixels": plan.limits.max_image_pixels,
        "given_up": plan.given_up,
        "decode_tokens_per_s": plan.expected.decode_tokens_per_s,
    }
