"""The parameters of a request beside its messages: which are not taken, and how far the others may go.

What is bounded here is what costs: an answer's length, alternatives, work for each token, state that others share. The
rest is vLLM's to judge.
"""

from collections.abc import Callable
from typing import Any

from serving.guard.refusal import RefusalError

_CACHE = "it would change what others' pictures or prompts are taken for"
_OPERATOR = "it is for whoever runs the server to set"
_ENGINE = "it reaches into the engine"
_COST = "its cost cannot be bounded"
_STRUCTURED = "it is `structured_outputs` now"
# Not taken in any request, and why. None, false and empty values pass: some clients send every field they know. The last
# of them vLLM would pass over, and answer as if nothing had been asked for.
FORBIDDEN = {
    "chat_template": _OPERATOR,
    "mm_processor_kwargs": _OPERATOR,
    "media_io_kwargs": _OPERATOR,
    "cache_salt": _CACHE,
    "priority": _OPERATOR,
    "kv_transfer_params": _ENGINE,
    "ec_transfer_params": _ENGINE,
    "vllm_xargs": _ENGINE,
    "prompt_embeds": _ENGINE,
    "data_parallel_rank": _ENGINE,
    "routed_experts_prompt_start": _ENGINE,
    "repetition_detection": _COST,
    "prompt_logprobs": _COST,
    "use_beam_search": _COST,
    "request_id": _ENGINE,
    "guided_json": _STRUCTURED,
    "guided_regex": _STRUCTURED,
    "guided_choice": _STRUCTURED,
    "guided_grammar": _STRUCTURED,
    "functions": "it is `tools` now",
    "audio": "answers are text",
}
# Variables of the chat template that are the server's own.
_TEMPLATE_VARIABLES = frozenset(
    {"chat_template", "messages", "tools", "documents", "tokenize", "add_generation_prompt", "continue_final_message"}
)

WHOLE: dict[str, tuple[int, int]] = {
    "n": (1, 4),
    "best_of": (1, 4),
    "top_logprobs": (0, 20),
    "top_k": (-1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "seed": (-(2**63), 2**63 - 1),
    "thinking_token_budget": (0, 2**31 - 1),
    "truncate_prompt_tokens": (-1, 2**31 - 1),
    "stream_interval": (1, 1024),
}
NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 10.0),
    "length_penalty": (-10.0, 10.0),
}
# Longest list, longest text in it.
LISTS: dict[str, tuple[int, int]] = {
    "stop": (4, 256),
    "bad_words": (64, 64),
    "stop_token_ids": (64, 0),
    "allowed_token_ids": (4096, 0),
    "logprob_token_ids": (20, 0),
    "tools": (128, 0),
    "documents": (64, 0),
}
LONGEST_TEXTS = {"user": 512, "session_id": 128, "service_tier": 64, "model": 256}
MOST_BIASES = 300


def check_parameters(request: dict[str, Any]) -> None:
    """Raises RefusalError for the first parameter that is not taken or is out of its bounds."""
    for name in FORBIDDEN.keys() & request.keys():
        if request[name]:
            raise RefusalError(
                f"`{name}` is not taken here: {FORBIDDEN[name]}.", param=name, code="forbidden_parameter"
            )
    for name in _CHECKS.keys() & request.keys():
        if request[name] is not None:
            _CHECKS[name](name, request[name])
    logprobs = request.get("logprobs")
    if request.get("echo") and logprobs is not None and logprobs is not False:
        raise RefusalError(
            "`echo` together with `logprobs` is not taken here.", param="echo", code="forbidden_parameter"
        )


def bound_answer(request: dict[str, Any], default: int, largest: int) -> tuple[int, dict[str, Any]]:
    """The longest answer in tokens, and the parameters that must be changed for it: the plan's default where none is
    asked for, and never more than there can be, as clients made for the cloud ask for 32k. What the prompt leaves of the
    context is vLLM's to subtract.

    Raises RefusalError for one that is no whole number above 0.
    """
    asked = [name for name in ("max_completion_tokens", "max_tokens") if request.get(name) is not None]
    for name in asked:
        _whole(name, request[name], 1, 2**63)
    answer = min(int(request[asked[0]]) if asked else default, largest)
    if (request.get("min_tokens") or 0) > answer:
        raise RefusalError(f"`min_tokens` is above the longest answer, {answer} tokens.", param="min_tokens")
    return answer, {name: answer for name in asked or ["max_tokens"] if request.get(name) != answer}


def _whole(name: str, value: Any, least: int, most: int) -> None:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or isinstance(value, bool) or not least <= value <= most:
        limits = f"from {least} to {most}" if most < 2**31 - 1 else f"of {least} or more"
        raise RefusalError(f"`{name}` must be a whole number {limits}.", param=name)


def _number(name: str, value: Any, least: float, most: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise RefusalError(f"`{name}` must be a number from {least:g} to {most:g}.", param=name)


def _list(name: str, value: Any, most: int, longest: int) -> None:
    items = [value] if isinstance(value, str) else value  # `stop` may be one text
    if not isinstance(items, list) or len(items) > most:
        raise RefusalError(f"`{name}` must be a list of at most {most}.", param=name)
    if longest and any(not isinstance(item, str) or len(item) > longest for item in items):
        raise RefusalError(f"`{name}` must hold texts of at most {longest} characters.", param=name)


def _text(name: str, value: Any, longest: int) -> None:
    if not isinstance(value, str) or len(value) > longest:
        raise RefusalError(f"`{name}` must be text of at most {longest} characters.", param=name)


def _logprobs(name: str, value: Any) -> None:
    if not isinstance(value, bool):  # chat asks with true, completions with a number
        _whole(name, value, 0, 20)


def _logit_bias(name: str, value: Any) -> None:
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        raise RefusalError(f"`{name}` must be an object of at most {MOST_BIASES} tokens.", param=name)
    for bias in value.values():
        _number(name, bias, -100.0, 100.0)


def _template_kwargs(name: str, value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 16:
        raise RefusalError(f"`{name}` must be an object of at most 16 values.", param=name)
    for key, each in value.items():
        if key in _TEMPLATE_VARIABLES:
            raise RefusalError(
                f"`{name}.{key}` is not taken here: {_OPERATOR}.", param=name, code="forbidden_parameter"
            )
        if not isinstance(each, bool | int | float | str | None) or (isinstance(each, str) and len(each) > 256):
            raise RefusalError(f"`{name}.{key}` must be a plain value.", param=name)


def _bounded(check: Callable[..., None], bounds: tuple[Any, ...]) -> Callable[[str, Any], None]:
    return lambda name, value: check(name, value, *bounds)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **{name: _bounded(_whole, bounds) for name, bounds in WHOLE.items()},
    **{name: _bounded(_number, bounds) for name, bounds in NUMBERS.items()},
    **{name: _bounded(_list, bounds) for name, bounds in LISTS.items()},
    **{name: _bounded(_text, (longest,)) for name, longest in LONGEST_TEXTS.items()},
    "logprobs": _logprobs,
    "logit_bias": _logit_bias,
    "chat_template_kwargs": _template_kwargs,
}
