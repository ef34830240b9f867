"""Placement advice in words for a terminal."""

from serving.fleet.advice import Advice, Expected, Placement


def describe(advice: Advice) -> str:
    """What to run where, what to expect of it, what a failure does, and what all of that assumes."""
    need = (
        "These replicas meet what is wanted:"
        if advice.meets
        else "These cards do not meet what is wanted. With all of them:"
    )
    lines = [need, "", *_table([_HEADS, *map(_row, advice.placements)]), ""]
    lines += _table(
        [
            ("", "requests/s", "refused", "busy", "wait p50/p99", "first token p50/p99", "answer p50/p99"),
            _expected("on average", advice.at_average),
            _expected("at the peak", advice.at_peak),
            _expected("one machine failed", advice.one_machine_failed),
        ]
    )
    lines += ["", _failure(advice)]
    for placement in advice.placements:
        if placement.given_up:
            lines.append(f"Given up on {placement.profile}: {'; '.join(placement.given_up)}.")
    if advice.would_do:
        lines += ["", "What would do:", *(f"  {option.what}" for option in advice.would_do)]
    elif not advice.meets:
        lines += ["", "No number of these cards would do: choose a smaller model, shorter answers, or more time."]
    lines += ["", "Service times:", *(f"  {each.profile}: {each.source}" for each in advice.placements)]
    return "\n".join([*lines, "Assumptions:", *(f"  {each}" for each in advice.assumptions)])


_HEADS = (
    "card",
    "model",
    "precision",
    "replicas",
    "spare",
    "at once",
    "most requests/s",
    "alone: first token",
    "answer",
)


def _row(placement: Placement) -> tuple[str, ...]:
    return (
        placement.profile,
        placement.model,
        placement.precision,
        str(placement.replicas),
        str(placement.spare),
        str(placement.at_once),
        f"{placement.most_requests_per_s:.2f}",
        f"{placement.idle.first_token_s:.2f} s",
        f"{placement.idle.answer_s:.2f} s",
    )


def _expected(title: str, what: Expected) -> tuple[str, ...]:
    if not what.requests_per_s:
        return (title, "0", f"{what.refused_share:.0%}", "–", "–", "–", "–")
    return (
        title,
        f"{what.requests_per_s:.2f} of {what.asked_per_s:.2f}",
        f"{what.refused_share:.1%}",
        f"{what.utilisation:.0%}",
        *(f"{each.p50:.2f} / {each.p99:.2f} s" for each in (what.wait_s, what.first_token_s, what.answer_s)),
    )


def _failure(advice: Advice) -> str:
    lost = (
        f"When one machine fails, about {advice.lost_at_once:g} running requests end with it (503 with Retry-After); "
    )
    if not advice.one_machine_failed.requests_per_s:
        return lost + "no other is left, and nothing is answered until it is back."
    if advice.meets_with_one_machine_failed:
        return lost + "the others go on within what is wanted."
    return (
        lost
        + "the others go on, and do not meet what is wanted until it is back (`survive_one_machine: true` plans for it)."
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
