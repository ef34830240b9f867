"""The hubs in the order in which they are asked, and what is said when none of them gives a model."""

import sys
from collections.abc import Callable
from typing import TypeVar

from serving.errors import HubError
from serving.hub.huggingface import HuggingFace
from serving.hub.listing import keep_listing, kept_listing
from serving.hub.modelscope import ModelScope
from serving.hub.transport import Source, Transport, UnreachableError

T = TypeVar("T")
_SOURCES: dict[str, Source] = {"huggingface": HuggingFace(), "modelscope": ModelScope()}


def with_a_hub(repo_id: str, revision: str, work: Callable[[Transport], T]) -> T:
    """Does `work` with the first hub with which it succeeds, and pins the commit that it was done with.

    A commit that was pinned before is taken as it is, from the hub that it was had from. Raises HubError with what
    each hub said; anything else that `work` raises ends the search.
    """
    kept = kept_listing(repo_id, revision)
    refusals: list[str] = []
    unreachable = False
    for key in sorted(_SOURCES, key=lambda key: kept is not None and key != kept.source):
        source = _SOURCES[key]
        try:
            listing = kept if kept and key == kept.source else source.listing(repo_id, revision)
            if refusals:
                sys.stderr.write(f"{refusals[-1]}\nNow {source.title} is asked for {repo_id}.\n")
            with Transport(source, listing) as transport:
                done = work(transport)
        except HubError as error:
            refusals.append(f"{source.title} ({source.endpoint}): {error}")
            unreachable |= isinstance(error, UnreachableError)
        else:
            if listing != kept:
                keep_listing(listing)
            return done
    network = "Check the network or the proxy, or set HF_ENDPOINT to a mirror. " if unreachable else ""
    raise HubError(
        f"{repo_id} is not on this machine, and no hub gives it.\n  "
        + "\n  ".join(refusals)
        + f"\n{network}A copy of the model's folder can be given by its path to --model; PROFILE=cpu MODEL=demo serves the "
        "built-in model without any download."
    )
