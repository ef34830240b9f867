"""A plan beside running onecards: made as if they had given back what they hold, since to plan is mostly to ask what could be
served in their place. `onecard serve` cannot do so: there what they hold is taken.
"""

from dataclasses import replace

from serving.errors import OnecardError
from serving.machine.hardware import Gpu, Hardware
from serving.machine.onecards import Onecard

_PATIENCE_S = 3.0


def counted_as_free(found: Hardware) -> tuple[Hardware, list[str]]:
    """The hardware with what onecards hold of its GPUs counted as free, and a sentence about each of them."""
    freed = [_freed(card) for card in found.gpus]
    said = [sentence for _, sentences in freed for sentence in sentences]
    return replace(found, gpus=tuple(card for card, _ in freed)), list(dict.fromkeys(said))


def _freed(card: Gpu) -> tuple[Gpu, list[str]]:
    said, left = [], []
    for each in card.onecards:
        told = each.held_mib is not None
        held = each.held_mib if told else _by_its_own_word(each)
        if held is None:
            left.append(each)
            said.append(
                f"Counted as taken: what the onecard on port {each.port} holds. The driver does not tell it apart here, nor "
                "does that server (`onecard status`; with keys, ONECARD_API_KEY must be one of them)."
            )
        elif told or held <= card.used_mib:  # by its own word it may hold it of another card
            card = replace(card, used_mib=max(0, card.used_mib - held))
            source = "" if told else ", as it measured itself when it started"
            said.append(f"Counted as free: {held:,} MiB of the onecard on port {each.port}{source}.")
    return replace(card, onecards=tuple(left)), said


def _by_its_own_word(onecard: Onecard) -> int | None:
    """MiB of the parts of its memory; the driver's share as planned where nobody could measure it. None if it does not say."""
    from serving.machine.running import fetch_status  # its HTTP client takes longer to import than a plan to make

    try:
        status = fetch_status(onecard.port, timeout_s=_PATIENCE_S)
    except OnecardError:
        return None
    measured = status.get("measured", {}).get("memory_mib")
    if not measured:
        return None
    parts: dict[str, int] = {"context": status["plan"]["memory_mib"]["context"]} | measured
    return sum(parts.values())
