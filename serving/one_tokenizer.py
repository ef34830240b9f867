"""A process reads its checkpoint's tokenizer once for all its processors, and copies it for none.

Before it serves, vLLM has transformers make the model's processor several times (`cached_get_processor` with other arguments
each time), and transformers reads the tokenizer anew for each, even for one that is given a tokenizer and throws the other
away, and copies the one that it is given, for an audio tokenizer that no such model has. A tokenizer of Qwen's 151,936 words
is read in 1 to 4 s and copied in one, by one core, while nothing else of a start goes on.
"""

import functools
from typing import Any


def read_tokenizers_once() -> None:
    """In this process, from now on. A transformers that loads processors in another way is left as it is."""
    from transformers.processing_utils import ProcessorMixin

    for name, wrap in (("_load_tokenizer_from_pretrained", _load_once), ("get_processor_dict", _without_copying)):
        now = getattr(ProcessorMixin, name, None)
        if now is not None and not hasattr(now, "__wrapped__"):
            setattr(ProcessorMixin, name, classmethod(wrap(now.__func__)))


def _load_once(load: Any) -> Any:
    read: dict[tuple[object, ...], Any] = {}

    @functools.wraps(load)
    def load_once(cls: type, kind: str, path: Any, subfolder: str = "", **options: Any) -> Any:
        # Given one, the processor is made of that and not of what is returned here.
        given = options.get("tokenizer")
        if given is not None and kind == "tokenizer":
            return given
        told = sorted((name, value) for name, value in options.items() if not name.startswith("_"))
        key = (kind, str(path), subfolder, repr(told))
        if key not in read:
            read[key] = load(cls, kind, path, subfolder=subfolder, **options)
        return read[key]

    return load_once


def _without_copying(get: Any) -> Any:
    @functools.wraps(get)
    def get_processor_dict(cls: type, *arguments: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        kept = {"tokenizer": options.pop("tokenizer")} if "tokenizer" in options else {}
        found, left = get(cls, *arguments, **options)
        return found, left | kept

    return get_processor_dict
