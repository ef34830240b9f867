"""Whether an answer is right: facts are compared, not letters.

A fact is a counted group ("two blue squares"), a colour, a place, a number, a picture's number, a printed word, or a
negation. An answer is right when its facts are those of the expected answer; where only one thing was asked (a colour,
a place, a number), only that has to agree. Fixed sentences (photographs, small talk) have to be given as they are.
"""

import json
import re
from collections import Counter
from typing import Any

from serving.demo.questions.chat import ANSWERS
from serving.demo.questions.grammar import CHINESE_NUMBERS, ENGLISH_NUMBERS, plural
from serving.demo.questions.heldout import Example
from serving.demo.vocabulary import COLORS, PLACES, SHAPES

Fact = tuple[Any, ...]

_NUMBERS = {word: number for words in (ENGLISH_NUMBERS, CHINESE_NUMBERS) for number, word in enumerate(words)}
_NUMBERS |= {"a": 1, "an": 1, "二": 2} | {str(number): number for number in range(10)}
_WORDS: dict[str, tuple[str, Any]] = {
    **{name: ("color", name) for name in COLORS},
    "grey": ("color", "gray"),
    **{chinese: ("color", name) for name, chinese in COLORS.items()},
    **{name: ("shape", name) for name in SHAPES},
    **{plural(name): ("shape", name) for name in SHAPES},
    **{chinese: ("shape", name) for name, chinese in SHAPES.items()},
    **{name: ("place", name) for name in PLACES},
    "centre": ("place", "center"),
    "middle": ("place", "center"),
    **{chinese: ("place", name) for name, chinese in PLACES.items()},
    **{word: ("number", number) for word, number in _NUMBERS.items()},
    **dict.fromkeys(("no", "none", "nothing", "empty", "没有", "空白"), ("not", True)),
}
_QUOTED = re.compile(r'["“「『]([^"”」』]*)["”」』]')
_PICTURE = re.compile(r"\bpicture (\d)|第(\d)张")
_LATIN = sorted((word for word in _WORDS if word.isascii()), key=len, reverse=True)
_CHINESE = sorted((word for word in _WORDS if not word.isascii()), key=len, reverse=True)
_TOKEN = re.compile(rf"\b(?:{'|'.join(_LATIN)})\b|{'|'.join(_CHINESE)}|(?<=[有在第])\d|\d(?=[个张])")
_TOOL_CALL = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>", re.DOTALL)
_YES = ("yes", "是", "有", "对", "在")
_NO = ("no", "不", "没")
_YES_OR_NO = ("Yes.", "No.", "是的。", "不是。", "有。", "没有。")
_FIXED = {text for answers in ANSWERS.values() for text in answers.values()}


def is_right(example: Example, answer: str) -> bool:
    """Whether `answer` says what the example expects."""
    expected, answer = example.expected, answer.strip()
    if expected in _FIXED:
        return _letters(answer) == _letters(expected)
    if answer in _FIXED:
        return False
    if expected.startswith(("{", "<tool_call>")):
        wanted, given = _object(expected), _object(answer)
        return given is not None and wanted == given and ("<tool_call>" in expected) == ("<tool_call>" in answer)
    if expected in _YES_OR_NO:
        return _polarity(answer) is _polarity(expected)
    wanted_facts, given_facts = facts(expected), facts(answer)
    asked = {"color": "color", "where": "place", "count": "number"}.get(example.kind)
    if asked is not None and not any(fact[0] == "not" for fact in wanted_facts):
        shapes = _of_kind(given_facts, "group")
        named_right = not shapes or shapes <= _of_kind(wanted_facts, "group")
        return named_right and _of_kind(wanted_facts, asked) == _of_kind(given_facts, asked)
    return wanted_facts == given_facts


def says_photograph(answer: str) -> bool:
    """Whether an answer takes its picture for a photograph."""
    return _letters(answer) in {_letters(text) for text in ANSWERS["photo"].values()}


def facts(text: str) -> Counter[Fact]:
    """The facts of a sentence, each behind the number of the picture that it is about (0: not said)."""
    found: Counter[Fact] = Counter()
    words = _QUOTED.findall(text)
    text = _QUOTED.sub(" ", text).lower()
    picture, start = 0, 0
    for marker in [*_PICTURE.finditer(text), None]:
        found += _facts_of(text[start : marker.start() if marker else None], picture)
        if marker is not None:
            picture, start = int(marker[1] or marker[2]), marker.end()
            found["picture", picture] += 1
    found.update(("text", word) for word in words)
    return found


def _facts_of(text: str, picture: int) -> Counter[Fact]:
    """A number and a colour right before a shape belong to it; all else stands alone."""
    found: Counter[Fact] = Counter()
    number: int | None = None
    color: str | None = None
    end = 0
    for token in _TOKEN.finditer(text):
        what, value = _WORDS[token[0]]
        apart = text[end : token.start()].strip(" 个的")
        end = token.end()
        if apart:
            _release(found, number, color, picture)
            number = color = None
        if what == "number":
            number = value if token[0] not in ("a", "an") or number is None else number
        elif what == "color":
            if color is not None:
                found["color", color, picture] += 1
            color = value
        elif what == "shape":
            found["group", 1 if number is None else number, color, value, picture] += 1
            number = color = None
        else:
            found[what, value, picture] += 1
    _release(found, number, color, picture)
    return found


def _release(found: Counter[Fact], number: int | None, color: str | None, picture: int) -> None:
    if number is not None:
        found["number", number, picture] += 1
    if color is not None:
        found["color", color, picture] += 1


def _of_kind(found: Counter[Fact], kind: str) -> set[Any]:
    """The colours, places, numbers or (of groups) shapes among the facts. What a group says of itself counts too."""
    values = {fact[3 if kind == "group" else 1] for fact in found if fact[0] == kind}
    if kind == "number":
        values |= {fact[1] for fact in found if fact[0] == "group"}
    if kind == "color" and not values:
        values = {fact[2] for fact in found if fact[0] == "group"} - {None}
    return values


def _polarity(answer: str) -> bool | None:
    words = answer.lower()
    if words.startswith(_NO):
        return False
    return True if words.startswith(_YES) else None


def _object(answer: str) -> Any:
    """The JSON object of an answer, also when it stands in a code fence or a tool call; None when there is none."""
    call = _TOOL_CALL.search(answer)
    text = call[1] if call else answer.removeprefix("```json").strip("` \n")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()
