"""Questions about one picture that are answered by yes or no; both are about as often right."""

import random

from serving.demo.pictures.scene import MOST_ITEMS, Scene
from serving.demo.questions.asking import Ask, other_than, random_target
from serving.demo.questions.grammar import (
    CHINESE_NUMBERS,
    ENGLISH_NUMBERS,
    PLACE_ALIASES,
    asked_color,
    asked_noun,
    with_article,
)
from serving.demo.questions.truths import asked_name, is_at, matching
from serving.demo.vocabulary import COLORS, PLACES, Language

_COLORS, _PLACES = tuple(COLORS), tuple(PLACES)


def _yes(language: Language, truth: bool, *, exists: bool = False) -> str:
    if language == "en":
        return "Yes." if truth else "No."
    if exists:
        return "有。" if truth else "没有。"
    return "是的。" if truth else "不是。"


def ask_yes_no(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    """Most often whether something is there."""
    return rng.choice(_ASKERS)(rng, scene, language)


def _exists(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    shape, color = random_target(rng, scene, 0.5)
    if shape is None and scene.text is not None and scene.text.color == color:
        return None
    one, many = asked_noun(rng, language, shape, color), asked_noun(rng, language, shape, color, count=2)
    slots = {"thing": one, "things": many, "a_thing": with_article(one)} if language == "en" else {"thing": one}
    return Ask("exists", _yes(language, bool(matching(scene, shape, color)), exists=True), slots)


def _is_color(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if not scene.items:
        return None
    item = rng.choice(scene.items)
    name = asked_name(rng, scene, language, item, color=False)
    if name is None:
        return None
    others = [one.color for one in scene.items if one.color != item.color]
    wrong = rng.choice(others) if others and rng.random() < 0.5 else other_than(rng, _COLORS, item.color)
    color = item.color if rng.random() < 0.5 else wrong
    slots = {"thing": name, "color": asked_color(rng, language, color)}
    return Ask("is_color", _yes(language, color == item.color), slots)


def _is_at(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if not scene.items:
        return None
    item = rng.choice(scene.items)
    name = asked_name(rng, scene, language, item, color=True)
    true_places = [place for place in _PLACES if is_at(item, place)]
    if name is None or not true_places:
        return None
    place = rng.choice(true_places if rng.random() < 0.5 else _PLACES)
    truth = is_at(item, place)
    slots = {"thing": name, "place": rng.choice(PLACE_ALIASES[language][place])}
    return None if truth is None else Ask("is_at", _yes(language, truth), slots)


_RELATIONS: dict[str, dict[Language, tuple[str, ...]]] = {
    "left": {"en": ("to the left of", "left of"), "zh": ("左边", "左侧", "左面")},
    "right": {"en": ("to the right of", "right of"), "zh": ("右边", "右侧", "右面")},
    "above": {"en": ("above", "higher than"), "zh": ("上方", "上面", "上边")},
    "below": {"en": ("below", "lower than"), "zh": ("下方", "下面", "下边")},
}


def _is_beside(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if len(scene.items) < 2:
        return None
    first, second = rng.sample(scene.items, 2)
    names = [asked_name(rng, scene, language, item, color=True) for item in (first, second)]
    relation = rng.choice(tuple(_RELATIONS))
    lead = {
        "left": second.x - first.x,
        "right": first.x - second.x,
        "above": second.y - first.y,
        "below": first.y - second.y,
    }[relation]
    if None in names or abs(lead) < 0.15:
        return None
    words = rng.choice(_RELATIONS[relation][language])
    slots = {"first": names[0] or "", "second": names[1] or "", "relation": words}
    return Ask("is_beside", _yes(language, lead > 0), slots)


def _is_count(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if not scene.items:
        return None
    item = rng.choice(scene.items)
    shape, color = rng.choice(((item.shape, None), (item.shape, item.color)))
    count = len(matching(scene, shape, color))
    wrong = [n for n in (count - 1, count + 1) if 2 <= n <= MOST_ITEMS]
    n = count if rng.random() < 0.5 else rng.choice(wrong)
    if n < 2:
        return None
    words = ENGLISH_NUMBERS[n] if language == "en" else CHINESE_NUMBERS[n]
    number = str(n) if rng.random() < 0.5 else words
    slots = {"n": number, "things": asked_noun(rng, language, shape, color, count=2)}
    return Ask("is_count", _yes(language, n == count), slots)


def _is_more(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    by_shape = scene.text is not None or rng.random() < 0.6  # is a red word a red object?
    names = list(dict.fromkeys(item.shape if by_shape else item.color for item in scene.items))
    if len(names) < 2:
        return None
    first, second = ((name, None) if by_shape else (None, name) for name in rng.sample(names, 2))
    slots = {
        "first": asked_noun(rng, language, first[0], first[1], count=2),
        "second": asked_noun(rng, language, second[0], second[1], count=2),
    }
    return Ask("is_more", _yes(language, len(matching(scene, *first)) > len(matching(scene, *second))), slots)


def _text_yes_no(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if scene.text is None or rng.random() < 0.5:
        return Ask("has_text", _yes(language, scene.text is not None, exists=True))
    word = scene.text.value
    if rng.random() < 0.5:
        spot = rng.randrange(len(word))
        letters = "23456789" if word[spot].isdigit() else "ABCDEFGHKLMNPRSTUXYZ"
        word = word[:spot] + other_than(rng, letters, word[spot]) + word[spot + 1 :]
    return Ask("says", _yes(language, word == scene.text.value), {"word": word})


_ASKERS = (*(_exists,) * 3, *(_is_color,) * 2, *(_is_at,) * 2, _is_beside, _is_count, _is_more, _text_yes_no)
