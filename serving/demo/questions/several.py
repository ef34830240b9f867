"""Questions about two to four pictures of one request."""

import random

from serving.demo.pictures.scene import Scene, Split, random_scene
from serving.demo.questions.asking import Ask
from serving.demo.questions.grammar import asked_noun, listing, pick, with_article
from serving.demo.questions.one import ASKERS
from serving.demo.questions.truths import description, matching
from serving.demo.questions.turns import Conversation, Turn, worded
from serving.demo.vocabulary import SHAPES, Language

_OF_ONE = ("shape", "color", "color", "where", "count", "yes_no", "text", "describe", "describe")


def about_several(rng: random.Random, split: Split, language: Language, wanted: int) -> Conversation:
    """`wanted` questions about the same pictures."""
    scenes = [
        random_scene(rng, split, items=rng.choice((1, 1, 1, 2, 3)), text=rng.random() < 0.25)
        for _ in range(rng.choice((2, 2, 3, 4)))
    ]
    turns: list[Turn] = []
    while len(turns) < wanted:
        turn = _turn(rng, scenes, language, split)
        if turn is not None:
            turns.append(turn)
    return Conversation(scenes, turns)


def _turn(rng: random.Random, scenes: list[Scene], language: Language, split: Split) -> Turn | None:
    kind = rng.random()
    if kind < 0.4:
        index = rng.randrange(len(scenes))
        ask = ASKERS[rng.choice(_OF_ONE)](rng, scenes[index], language)
        return None if ask is None else worded(rng, "several", ask, language, split, index)
    if kind < 0.5:
        answer = pick(language, f"There are {len(scenes)} pictures.", f"有{len(scenes)}张图片。")
        return worded(rng, "several", Ask("how_many_pictures", answer), language, split)
    if kind < 0.58:
        return worded(rng, "several", Ask("describe_all", _each(scenes, language)), language, split)
    thing = _target(rng, scenes)
    found = [number for number, scene in enumerate(scenes, 1) if matching(scene, *thing)]
    asked = asked_noun(rng, language, *thing)
    slots = {"thing": asked, "a_thing": with_article(asked)} if language == "en" else {"thing": asked}
    if kind < 0.64:
        every = len(found) == len(scenes)
        answer = pick(language, "Yes." if every else "No.", "是的。" if every else "不是。")
        return worded(rng, "several", Ask("in_all", answer, slots), language, split)
    return worded(rng, "several", Ask("which_picture", _in_pictures(found, language), slots), language, split)


def _target(rng: random.Random, scenes: list[Scene]) -> tuple[str | None, str | None]:
    """A shape, a colour or both: mostly of an item in one of the pictures. No colour in which a word is printed."""
    items = [item for scene in scenes for item in scene.items]
    if not items or rng.random() < 0.1:
        return rng.choice(tuple(SHAPES)), None
    item = rng.choice(items)
    printed = {scene.text.color for scene in scenes if scene.text}
    by_color = (item.shape if item.color in printed else None, item.color)
    return rng.choice(((item.shape, None), (item.shape, None), (item.shape, item.color), by_color))


def _in_pictures(found: list[int], language: Language) -> str:
    """ "In pictures 1 and 3." """
    if not found:
        return pick(language, "In none of them.", "都没有。")
    if language == "zh":
        return f"在{listing('zh', [f'第{number}张' for number in found])}图片中。"
    return f"In {'picture' if len(found) == 1 else 'pictures'} {listing('en', [str(number) for number in found])}."


def _each(scenes: list[Scene], language: Language) -> str:
    """ "Picture 1 shows a red circle. Picture 2 shows …" """
    if language == "zh":
        return "".join(f"第{n}张图片中有{description(scene, 'zh')}。" for n, scene in enumerate(scenes, 1))
    return " ".join(f"Picture {n} shows {description(scene, 'en')}." for n, scene in enumerate(scenes, 1))
