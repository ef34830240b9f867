"""A process reads its checkpoint's tokenizer once for all its processors.

Before it serves, vLLM has transformers make the model's processor three times (`cached_get_processor` with three sets of
arguments), and transformers reads the tokenizer anew for each, even for one that is given a tokenizer and throws the other
away. A tokenizer of Qwen's 151,936 words is read and copied in 1 to 4 s, by one core, while nothing else of a start goes on.
"""

import functools
from typing import Any


def read_tokenizers_once() -> None:
    """In this process, from now on. A transformers that loads processors in another way is left as it is."""
    from transformers.processing_utils import ProcessorMixin

    load = getattr(ProcessorMixin, "_load_tokenizer_from_pretrained", None)
    if load is None or hasattr(load, "__wrapped__"):
        return
    read: dict[tuple[object, ...], Any] = {}

    @functools.wraps(load.__func__)
    def load_once(_class: type, kind: str, path: Any, subfolder: str = "", **options: Any) -> Any:
        # Given one, the processor is made of that and not of what is returned here.
        given = options.get("tokenizer")
        if given is not None and kind == "tokenizer":
            return given
        told = sorted((name, value) for name, value in options.items() if not name.startswith("_"))
        key = (kind, str(path), subfolder, repr(told))
        if key not in read:
            read[key] = load(kind, path, subfolder=subfolder, **options)
        return read[key]

    setattr(ProcessorMixin, load.__name__, classmethod(load_once))  # type: ignore[arg-type]
