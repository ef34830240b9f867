"""What is true of a scene beyond doubt, and how a sentence refers to the things in it."""

import random
from collections.abc import Sequence

from serving.demo.pictures.scene import PLACE_MARGIN, Item, Scene, Text, place_of
from serving.demo.questions.grammar import asked_noun, group, listing, noun, pick
from serving.demo.vocabulary import Language

SIDES = {"left": ("x", 0), "right": ("x", 2), "top": ("y", 0), "bottom": ("y", 2)}


def matching(scene: Scene, shape: str | None, color: str | None) -> list[Item]:
    """The items of that shape and colour; None leaves it open."""
    return [item for item in scene.items if shape in (None, item.shape) and color in (None, item.color)]


def left_to_right(items: Sequence[Item]) -> list[Item]:
    """The items in the order in which an answer names them."""
    return sorted(items, key=lambda item: (item.x, item.y))


def is_at(thing: Item | Text, place: str) -> bool | None:
    """Whether a thing is at a place; None where people would not agree. A side counts its two corners in."""
    if place in SIDES:
        axis, third = SIDES[place]
        position = thing.x if axis == "x" else thing.y
        if min(abs(position - 1 / 3), abs(position - 2 / 3)) < PLACE_MARGIN:
            return None
        return int(position * 3) == third
    name = place_of(thing)
    return None if name is None else name == place


def only_at(scene: Scene, place: str) -> Item | None:
    """The one item at a place, or None when there are none, more than one, or a doubt. A word may not be there."""
    answers = [(item, is_at(item, place)) for item in scene.items]
    if any(answer is None for _, answer in answers) or (scene.text and is_at(scene.text, place) is not False):
        return None
    found = [item for item, answer in answers if answer]
    return found[0] if len(found) == 1 else None


def groups(items: Sequence[Item]) -> list[tuple[int, str, str]]:
    """(count, shape, colour) of the items that are alike, in the order of their leftmost members."""
    counts: dict[tuple[str, str], int] = {}
    for item in left_to_right(items):
        counts[item.shape, item.color] = counts.get((item.shape, item.color), 0) + 1
    return [(count, shape, color) for (shape, color), count in counts.items()]


def description(scene: Scene, language: Language) -> str:
    """What is in the picture, without the words around it: "a red circle and two blue squares"."""
    parts = [group(language, count, shape, color) for count, shape, color in groups(scene.items)]
    if scene.text is not None:
        parts.append(pick(language, f'the word "{scene.text.value}"', f'文字"{scene.text.value}"'))
    return listing(language, parts) if parts else pick(language, "nothing", "空白")


def asked_name(rng: random.Random, scene: Scene, language: Language, thing: Item | Text, *, color: bool) -> str | None:
    """Words for exactly this thing in a question; `color`: whether they may name its colour. None when no words
    single it out."""
    if isinstance(thing, Text):
        if language == "zh":
            return rng.choice(("文字", "文字", "字"))
        return rng.choice(("the text", "the text", "the word", "the writing"))
    choices: list[tuple[str | None, str | None]] = []
    if len(scene.items) == 1:
        choices.append((None, None))
    if len(matching(scene, thing.shape, None)) == 1:
        choices += [(thing.shape, None)] * 3
    if color and len(matching(scene, thing.shape, thing.color)) == 1:
        choices += [(thing.shape, thing.color)] * 2
    if color and len(matching(scene, None, thing.color)) == 1:
        choices.append((None, thing.color))
    if not choices:
        return None
    shape, named_color = rng.choice(choices)
    return definite(language, asked_noun(rng, language, shape, named_color))


def answer_name(scene: Scene, language: Language, thing: Item | Text) -> str:
    """The same thing in an answer: by its shape alone when that is enough."""
    if isinstance(thing, Text):
        return pick(language, "the text", "文字")
    color = None if len(matching(scene, thing.shape, None)) == 1 else thing.color
    return definite(language, noun(language, thing.shape, color))


def definite(language: Language, words: str) -> str:
    """A noun phrase with the definite article, where the language has one."""
    return f"the {words}" if language == "en" else words
