"""The hubs in the order in which they are asked, and what is said when none of them gives a model."""

import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from serving.errors import HubError
from serving.hub.huggingface import HuggingFace
from serving.hub.listing import keep_listing, kept_listing
from serving.hub.modelscope import ModelScope
from serving.hub.transport import Source, Transport, UnreachableError, patiently

T = TypeVar("T")
_SOURCES: dict[str, Source] = {"huggingface": HuggingFace(), "modelscope": ModelScope()}


def with_a_hub(repo_id: str, revision: str, work: Callable[[Transport], T]) -> T:
    """Does `work` with the first hub with which it succeeds, and pins the commit that it was done with.

    A commit that was pinned before comes first; the hubs are asked for the revision when it cannot be had any more.
    Raises HubError with what each hub said; anything else that `work` raises ends the search.
    """
    kept = kept_listing(repo_id, revision)
    refusals: dict[str, HubError] = {}
    for key in ([kept.source] if kept else []) + list(_SOURCES):
        source = _SOURCES[key]
        pinned = kept if not refusals else None
        try:
            listing = pinned or patiently(partial(source.listing, repo_id, revision))
            if listing == kept and not pinned:
                continue  # it has been tried
            if refusals:
                sys.stderr.write(
                    f"{_said(refusals)}\nTaken from {source.title}: {repo_id} at commit {listing.commit}.\n"
                )
            with Transport(source, listing) as transport:
                done = work(transport)
        except HubError as error:
            refusals.setdefault(key, error)
        else:
            if not pinned:
                keep_listing(listing)
            return done
    network = any(isinstance(error, UnreachableError) for error in refusals.values())
    raise HubError(
        f"{repo_id} is not on this machine, and no hub gives it.\n{_said(refusals)}\n"
        + ("Check the network or the proxy, or set HF_ENDPOINT to a mirror. " if network else "")
        + "A copy of the model's folder can be given by its path to --model (an EAGLE3 head's: as `model` in "
        "--speculative-config); PROFILE=cpu MODEL=demo serves the built-in model without any download."
    )


def _said(refusals: dict[str, HubError]) -> str:
    return "\n".join(f"  {_SOURCES[key].title} ({_SOURCES[key].endpoint}): {error}" for key, error in refusals.items())
