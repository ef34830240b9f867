"""A process reads its checkpoint's tokenizer once, for vLLM and all processors of transformers, and copies it for none.

Before it serves, vLLM has transformers make the model's processor several times (`cached_get_processor` with other arguments
each time): of its own tokenizer, once before that to see which arguments a processor takes, and once to see its chat template.
transformers reads the tokenizer anew for each, even for one that is given a tokenizer and throws the other away, and copies the
one that it is given, for an audio tokenizer that no such model has. A tokenizer of Qwen's 151,936 words is read in 1 to 4 s and
copied in one, by one core, while nothing else of a start goes on.
"""

import functools
from contextvars import ContextVar
from typing import Any

# vLLM's own tokenizer, while vLLM has processors made for it.
_lent: ContextVar[Any] = ContextVar("_lent", default=None)


def read_tokenizers_once() -> None:
    """In this process, from now on. What a transformers or a vLLM does in another way is left as it is."""
    from transformers.processing_utils import ProcessorMixin
    from vllm.transformers_utils import processor

    for name, wrap in (("_load_tokenizer_from_pretrained", _load_once), ("get_processor_dict", _without_copying)):
        now = getattr(ProcessorMixin, name, None)
        if now is not None and not hasattr(now, "__wrapped__"):
            setattr(ProcessorMixin, name, classmethod(wrap(now.__func__)))
    make = getattr(processor, "cached_get_processor_without_dynamic_kwargs", None)
    if make is not None and not hasattr(make, "__wrapped__"):
        processor.cached_get_processor_without_dynamic_kwargs = _lending(make)


def _load_once(load: Any) -> Any:
    read: dict[tuple[object, ...], Any] = {}

    @functools.wraps(load)
    def load_once(cls: type, kind: str, path: Any, subfolder: str = "", **options: Any) -> Any:
        # Given one, the processor is made of that and not of what is returned here.
        given = options.get("tokenizer")
        if given is not None and kind == "tokenizer":
            return given
        # vLLM says that it has no `code_revision` to one processor, and nothing to another.
        unsaid = {"code_revision"} if options.get("code_revision") is None else set()
        told = sorted((name, value) for name, value in options.items() if name[0] != "_" and name not in unsaid)
        key = (kind, str(path), subfolder, repr(told))
        if key not in read:
            lent = _lent.get() if kind == "tokenizer" and not subfolder else None
            if getattr(lent, "name_or_path", None) == str(path):
                read[key] = _sharing(lent)
            else:
                read[key] = load(cls, kind, path, subfolder=subfolder, **options)
        return read[key]

    return load_once


def _sharing(tokenizer: Any) -> Any:
    """Another of the same words; what one user sets on its own the others do not see. Not by `copy`: that makes vLLM's pool of
    tokenizers anew, with a deep copy of the words for each of its threads."""
    other = tokenizer.__class__.__new__(tokenizer.__class__)
    vars(other).update(vars(tokenizer))
    return other


def _without_copying(get: Any) -> Any:
    @functools.wraps(get)
    def get_processor_dict(cls: type, *arguments: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        kept = {"tokenizer": options.pop("tokenizer")} if "tokenizer" in options else {}
        found, left = get(cls, *arguments, **options)
        return found, left | kept

    return get_processor_dict


def _lending(make: Any) -> Any:
    @functools.wraps(make)
    def make_lending(*arguments: Any, **options: Any) -> Any:
        token = _lent.set(options.get("tokenizer"))
        try:
            return make(*arguments, **options)
        finally:
            _lent.reset(token)

    return make_lending
