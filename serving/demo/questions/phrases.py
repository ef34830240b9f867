"""How the templates of phrases.yaml are filled in, and how people type.

`[a|b|]` is one of its alternatives. `<in>` is a place ("in this image", "图中"), `<pic>` a noun phrase ("the picture",
"这张图片"); `?<in>` may be left out when there is but one picture. `{name}` is filled in by the question.
"""

import random
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from serving.demo.questions.grammar import in_the_picture, the_picture
from serving.demo.vocabulary import Language

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_MACRO = re.compile(r"\?<in>|<in>|<pic>")
_UNSEEN_SHARE = 0.15

_BEFORE: dict[Language, tuple[str, ...]] = {
    "en": ("Please tell me: ", "Hi! ", "Hello, ", "Look at the picture. ", "Quick question: ", "Please answer: "),
    "zh": ("请问，", "你好，", "请看图回答：", "看图，", "请回答：", "麻烦问一下，"),
}
_AFTER: dict[Language, tuple[str, ...]] = {
    "en": (
        " Answer briefly.",
        " Answer in one word.",
        " Answer in one sentence.",
        " Thanks!",
        " Be brief.",
        " Please.",
    ),
    "zh": ("请简短回答。", "用一句话回答。", "请回答。", "谢谢。", "简单回答。"),
}


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return tables


@cache
def lines(section: str, key: str, language: Language) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is said: (in training, in the evaluation alone)."""
    table = _tables()[section][key][language].splitlines()
    return tuple(line for line in table if line[0] != "~"), tuple(line[1:] for line in table if line[0] == "~")


def said(rng: random.Random, section: str, key: str, language: Language, split: str) -> tuple[str, bool]:
    """One of the lines, and whether training does not know it."""
    common, rare = lines(section, key, language)
    unseen = bool(rare) and split == "eval" and rng.random() < _UNSEEN_SHARE
    return rng.choice(rare if unseen else common), unseen


def phrase(
    rng: random.Random, key: str, language: Language, slots: Mapping[str, str], index: int | None, split: str
) -> tuple[str, bool]:
    """A question in someone's words, and whether training does not know its template. `index`: which of several
    pictures is meant; then the words say it."""
    while True:
        text, unseen = said(rng, "questions", key, language, split)
        while "[" in text:
            text = _ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), text)
        if index is None or "<" in text:
            break
    text = _MACRO.sub(lambda match: _picture(rng, match[0], language, index), text)
    for name, value in slots.items():
        text = text.replace("{" + name + "}", value)
    return text[0].upper() + text[1:], unseen


def _picture(rng: random.Random, macro: str, language: Language, index: int | None) -> str:
    if macro == "<pic>":
        return the_picture(rng, language, index)
    if macro == "<in>":
        return in_the_picture(rng, language, index)
    if index is None and rng.random() < 0.6:
        return ""
    return (" " if language == "en" else "") + in_the_picture(rng, language, index)


def casual(rng: random.Random, text: str, language: Language, *, polite: bool = True) -> str:
    """The question as it is typed: in lower case, without its apostrophes or its question mark, or with two; where it
    may be `polite`, shouted, with a greeting or a wish for a brief answer."""
    if polite and rng.random() < 0.06:
        greeting = rng.choice(_BEFORE[language])
        goes_on = language == "en" and greeting[-2] in ",:" and not text[:2].isupper()
        text = greeting + (text[0].lower() + text[1:] if goes_on else text)
    if polite and rng.random() < 0.05:
        return text + rng.choice(_AFTER[language])
    if language == "en" and rng.random() < 0.1 and '"' not in text:
        text = text.lower() if rng.random() < 0.85 or not polite else text.upper()
    if language == "zh" and rng.random() < 0.15:
        text = text.replace("？", "?")
    if "'" in text and rng.random() < 0.2:
        text = text.replace("'", "")
    if text[-1] in "?？" and rng.random() < 0.02:
        text += text[-1]
    elif text[-1] in "?？.。" and rng.random() < 0.15:
        text = text[:-1]
    return text
