"""A tokenizer is read once for all processors that vLLM has made, and not copied; and each works as before."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from vllm.tokenizers import get_tokenizer, hf
from vllm.transformers_utils import processor

import serving.demo
from serving.engine.one_tokenizer import read_tokenizers_once

DEMO = Path(serving.demo.__file__).parent / "model"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is read by AutoTokenizer, with our loading in place for the length of a test."""
    found: list[str] = []
    read = AutoTokenizer.from_pretrained

    def counting(name: Any, *arguments: Any, **options: Any) -> Any:
        found.append(str(name))
        return read(name, *arguments, **options)

    for name in ("_load_tokenizer_from_pretrained", "get_processor_dict"):
        monkeypatch.setattr(ProcessorMixin, name, ProcessorMixin.__dict__[name])  # as it was, afterwards
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counting)
    make = processor.cached_get_processor_without_dynamic_kwargs
    monkeypatch.setattr(processor, "cached_get_processor_without_dynamic_kwargs", make)
    processor.cached_get_processor.cache_clear()
    read_tokenizers_once()
    return found


def test_the_processors_that_vllm_makes_share_its_one_reading(reads: list[str]) -> None:
    given = get_tokenizer(DEMO, truncation_side="left")
    made = processor.cached_get_processor_without_dynamic_kwargs(str(DEMO), tokenizer=given)
    for_its_chat_template: dict[str, Any] = {"processor_cls": (PreTrainedTokenizerBase, ProcessorMixin)}
    again = processor.cached_get_processor(str(DEMO), code_revision=None, **for_its_chat_template)
    assert made is not again
    assert made.tokenizer is given
    assert reads == [str(DEMO)]
    assert again.chat_template == given.chat_template
    text = "<|vision_start|><|image_pad|><|vision_end|>What is in the picture?"
    picture = Image.new("RGB", (64, 64), "red")
    first, second = (each(text=[text], images=[picture])["input_ids"] for each in (made, again))
    assert first == second
    assert len(first[0]) > len(given.encode("What is in the picture?"))


def test_vllms_pool_of_tokenizers_is_not_made_anew(reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = hf.maybe_make_thread_pool(get_tokenizer(DEMO))
    monkeypatch.setattr(hf, "maybe_make_thread_pool", None)
    processor.cached_get_processor_without_dynamic_kwargs(str(DEMO), tokenizer=given)
    lent = processor.cached_get_processor(str(DEMO)).tokenizer
    assert reads == [str(DEMO)]
    assert lent is not given
    assert lent.encode("What is in the picture?") == given.encode("What is in the picture?")


def test_what_one_sets_on_its_tokenizer_the_others_do_not_see(reads: list[str]) -> None:
    given = get_tokenizer(DEMO)
    processor.cached_get_processor_without_dynamic_kwargs(str(DEMO), tokenizer=given)
    first = processor.cached_get_processor(str(DEMO)).tokenizer
    first.padding_side, first.chat_template = "none", "another"
    assert reads == [str(DEMO)]
    assert given.padding_side != "none"
    assert given.chat_template != "another"


def test_a_tokenizer_of_another_folder_is_not_taken_for_this_one(reads: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(DEMO)
    given = get_tokenizer(other)
    made = processor.cached_get_processor_without_dynamic_kwargs(str(DEMO), tokenizer=given)
    assert made.tokenizer is given
    assert processor.cached_get_processor(str(DEMO)).tokenizer is not given
    assert reads == [str(other), str(DEMO)]


def test_a_tokenizer_that_is_given_is_not_copied(reads: list[str]) -> None:
    class Uncopied(type(AutoTokenizer.from_pretrained(DEMO))):  # type: ignore[misc]
        def __deepcopy__(self, _copied: dict[int, Any]) -> None:
            raise AssertionError("copied")

    given = AutoTokenizer.from_pretrained(DEMO)
    given.__class__ = Uncopied
    reads.clear()
    assert AutoProcessor.from_pretrained(DEMO, tokenizer=given).tokenizer is given
    assert reads == []


def test_other_folders_and_other_options_are_read_for_themselves(reads: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(DEMO)
    AutoProcessor.from_pretrained(DEMO)
    AutoProcessor.from_pretrained(other)
    AutoProcessor.from_pretrained(DEMO, use_fast=False)
    assert reads == [str(DEMO), str(other), str(DEMO)]


def test_twice_is_once(reads: list[str]) -> None:
    before = ProcessorMixin._load_tokenizer_from_pretrained.__func__, ProcessorMixin.get_processor_dict.__func__
    make = processor.cached_get_processor_without_dynamic_kwargs
    read_tokenizers_once()
    assert processor.cached_get_processor_without_dynamic_kwargs is make
    assert before == (
        ProcessorMixin._load_tokenizer_from_pretrained.__func__,
        ProcessorMixin.get_processor_dict.__func__,
    )
    assert reads == []
