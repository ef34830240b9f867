"""What `--speculative-config` asks for, read and checked. Where an EAGLE3 head comes from is `heads.py`'s question, what drafts
take of the memory `speculation.py`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import UsageError

# Methods that draft from the text alone.
_WITHOUT_WEIGHTS = ("ngram", "suffix")
# Keys that are planned with, or change nothing of what is planned, where a head drafts.
_OF_A_HEAD = ("method", "model", "revision", "num_speculative_tokens", "draft_sample_method", "rejection_sample_method")
# More drafts are never right; and how deep vLLM's suffix tree goes where nothing is said.
_MOST, _OF_A_SUFFIX_TREE = 64, 24


@dataclass(frozen=True)
class AskedSpeculation:
    """So many `tokens` by that method. `model` is a head's folder or Hub id, None where the model's own is meant or the method
    has none; `keeps_logits` as in `speculation.Speculation`."""

    method: str
    tokens: int
    model: str | None = None
    revision: str = "main"
    keeps_logits: bool = False

    @property
    def by_head(self) -> bool:
        return self.method not in _WITHOUT_WEIGHTS


def read_speculation(given: Mapping[str, Any]) -> AskedSpeculation:
    """Of vLLM's `speculative_config`. Raises UsageError for what nothing is planned for."""
    method, model, tokens = given.get("method"), given.get("model"), given.get("num_speculative_tokens")
    if method in _WITHOUT_WEIGHTS:
        if method == "suffix" and tokens is None:
            tokens = given.get("suffix_decoding_max_tree_depth", _OF_A_SUFFIX_TREE)
        return AskedSpeculation(method, _tokens(tokens))
    if method != "eagle3":
        raise UsageError(
            f"--speculative-config: nothing is planned for the weights of a draft model ({method!r}). `method` can be eagle3, "
            f"with an EAGLE3 head, or {' or '.join(_WITHOUT_WEIGHTS)}, which need none."
        )
    if given.get("quantization"):
        raise UsageError(
            f"--speculative-config: a head with `quantization` ({given['quantization']!r}) is not planned. Leave it out: heads "
            "are small, and published with 16 bits."
        )
    if unknown := [key for key in given if key not in _OF_A_HEAD]:
        raise UsageError(
            f"--speculative-config: nothing is planned for {unknown[0]!r} with an EAGLE3 head. Leave it out; planned are "
            f"{', '.join(_OF_A_HEAD)}."
        )
    if model is not None and not (isinstance(model, str) and model):
        raise UsageError(f"--speculative-config: `model` is {model!r}, and it names a head's folder or Hub id.")
    return AskedSpeculation(
        method,
        _tokens(tokens),
        model,
        revision=str(given.get("revision") or "main"),
        keeps_logits=given.get("draft_sample_method") == "probabilistic",
    )


def _tokens(given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= _MOST:
        raise UsageError(
            f"--speculative-config: `num_speculative_tokens` is {given!r}, and it is how many tokens are drafted a step, 1 to "
            f"{_MOST}. Try 3."
        )
    return given
