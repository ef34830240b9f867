"""What else could be planned: the nearest thing that fits where something does not, and one step in each direction where it
does. Each is a plan of its own, made by the same function; nothing is guessed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from serving.errors import UsageError
from serving.planning.plan import Plan
from serving.planning.planner import Subject

# Wins over a profile's own too.
_PLAIN: dict[str, Any] = {"speculative_config": None}


@dataclass(frozen=True)
class Step:
    """A choice made otherwise, the flag that makes it, and the plan that it would be. `also` says in words which other choices
    that plan makes otherwise: what it has to give up, or need not any more."""

    flag: str
    plan: Plan
    also: tuple[str, ...]


def nearest(subject: Subject, plan: Plan, user_args: dict[str, Any], others: Iterable[Subject] = ()) -> tuple[str, ...]:
    """What would fit where `plan` does not, a sentence each: with a shorter context or smaller pictures, or another precision
    or model.

    `others` are the same profile with other models, the ones nearest first."""
    found = []
    if plan.speculation:
        found += _one(subject, user_args | _PLAIN, "without --speculative-config")
    if "kv_cache_memory_bytes" in user_args:
        left = {name: value for name, value in user_args.items() if name != "kv_cache_memory_bytes"}
        found += _one(subject, left, "without --kv-cache-memory-bytes")
    shorter = plan.capacity.kv_tokens // 1024 * 1024
    if user_args.get("max_model_len") and shorter:
        found += _one(subject, user_args | {"max_model_len": shorter}, f"--max-model-len {shorter}")
    smaller = _pixels(plan.limits.max_image_pixels // 2)
    if "mm_processor_kwargs" in user_args:
        found += _one(subject, user_args | smaller, f"pictures of {plan.limits.max_image_pixels // 2:,} pixels")
    for other in others:
        if len(found) >= 3:
            break
        kept = {name: value for name, value in user_args.items() if name != "load_format"}
        flag = f"--model {other.model_name}"
        plain = replace(other, adapters=()) if "lora_modules" in user_args else other
        found += _one(other, kept, flag) or _one(plain, {}, f"{flag} without what follows `--`")
    return tuple(found)


def steps(subject: Subject, plan: Plan, user_args: dict[str, Any]) -> list[Step]:
    """The same plan with one choice taken one step in each direction."""
    capacity, limits = plan.capacity, plan.limits
    changes: list[tuple[str, dict[str, Any]]] = [
        (f"--max-model-len {length}", {"max_model_len": length})
        for length in (capacity.max_model_len // 2, capacity.max_model_len * 2)
    ]
    changes += [
        (f"pictures of {pixels:,} pixels", _pixels(pixels))
        for pixels in (limits.max_image_pixels // 2, limits.max_image_pixels * 2)
        if limits.max_images_per_request
    ]
    changes += [
        (f"--max-num-seqs {sequences}", {"max_num_seqs": sequences})
        for sequences in (capacity.max_num_seqs // 2, capacity.max_num_seqs * 2)
        if sequences
    ]
    tokens = int(plan.engine_args["max_num_batched_tokens"])
    changes += [
        (f"--max-num-batched-tokens {batch}", {"max_num_batched_tokens": batch}) for batch in (tokens // 2, tokens * 2)
    ]
    if plan.speculation:
        changes.append(("without --speculative-config", _PLAIN))
    found = []
    for flag, change in changes:
        try:
            other = subject.plan(user_args | change)
        except UsageError:
            continue  # beyond what the model itself allows
        chosen, before = _choices(other), _choices(plan)
        found.append(
            Step(flag, other, tuple(chosen[key] for key in chosen if key not in change and chosen[key] != before[key]))
        )
    return found


def _choices(plan: Plan) -> dict[str, str]:
    """Each in words, by the argument that makes it."""
    return {
        "max_model_len": f"conversations of {plan.capacity.max_model_len:,}",
        "mm_processor_kwargs": f"pictures of {plan.limits.max_image_pixels:,} pixels",
        "max_num_seqs": f"{plan.capacity.max_num_seqs:,} requests at once",
        "max_num_batched_tokens": f"steps of {plan.engine_args['max_num_batched_tokens']:,} tokens",
    }


def _pixels(pixels: int) -> dict[str, Any]:
    size = {"shortest_edge": min(65_536, pixels), "longest_edge": pixels}
    return {"mm_processor_kwargs": {"size": size}}


def _one(subject: Subject, args: dict[str, Any], change: str) -> list[str]:
    try:
        plan = subject.plan(args)
    except UsageError:
        return []
    if not plan.fits:
        return []
    cache = f", {plan.capacity.kv_tokens:,} tokens of KV cache" if plan.predicted else ""
    return [f"{change} fits: {plan.precision}{cache}, conversations of {plan.capacity.max_model_len:,}"]
