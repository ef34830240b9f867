"""Conversations about one drawing: several questions, and questions that lean on the one before ("And where is it?")."""

import random
from dataclasses import replace

from serving.demo.pictures.scene import Item, Scene, Split, random_scene
from serving.demo.questions import asking
from serving.demo.questions.asking import Ask, Asker
from serving.demo.questions.chat import ANSWERS, Topic
from serving.demo.questions.grammar import asked_noun
from serving.demo.questions.phrases import casual, said
from serving.demo.questions.truths import matching
from serving.demo.questions.turns import Conversation, Turn, worded
from serving.demo.questions.yes_no import ask_yes_no
from serving.demo.vocabulary import Language

ASKERS: dict[str, Asker] = {
    "shape": asking.ask_shape,
    "color": asking.ask_color,
    "where": asking.ask_where,
    "count": asking.ask_count,
    "yes_no": ask_yes_no,
    "text": asking.ask_text,
    "describe": asking.ask_description,
    "json": asking.ask_json,
    "absent": asking.ask_absent,
}
# How often training asks them. Where a word is printed, it is mostly asked for first or second.
_WEIGHTS = {
    "shape": 13,
    "color": 14,
    "where": 22,
    "count": 11,
    "yes_no": 18,
    "text": 20,
    "describe": 17,
    "json": 4,
    "absent": 3,
}
_KINDS, _FREQUENCIES = tuple(_WEIGHTS), tuple(_WEIGHTS.values())


def random_language(rng: random.Random) -> Language:
    """Either, as often."""
    return "en" if rng.random() < 0.5 else "zh"


def about_one(rng: random.Random, split: Split) -> Conversation:
    """Four to eight questions about a drawing (fewer where it has little to ask about), sometimes in both languages."""
    crowded = rng.random() < 0.25
    scene = random_scene(rng, split, items=rng.randint(2, 6), alike=True) if crowded else random_scene(rng, split)
    language = random_language(rng)
    wanted = rng.randint(4, 8)
    turns: list[Turn] = []
    asked: set[tuple[str, str]] = set()
    last: Ask | None = None
    for _ in range(4 * wanted):
        if len(turns) == wanted:
            break
        if rng.random() < 0.06:
            language = "zh" if language == "en" else "en"
        if rng.random() < 0.06:
            topic: Topic = rng.choice(("unknown", "unknown", "thanks", "who", "hello"))
            turns.append(talk(rng, topic, language, split))
            continue
        if last is not None and rng.random() < 0.25:
            turn = _further(rng, scene, language, last)
            if turn is not None:
                turns.append(turn)
                last = None
                continue
        kind = "text" if scene.text and len(turns) < 2 and rng.random() < 0.6 else rng.choices(_KINDS, _FREQUENCIES)[0]
        ask = ASKERS[kind](rng, scene, language)
        if ask is None or (ask.key, str(ask.slots)) in asked:
            continue
        asked.add((ask.key, str(ask.slots)))
        turns.append(worded(rng, kind, ask, language, split))
        last = ask
    return Conversation([scene], turns or [talk(rng, "unknown", language, split)])


def talk(rng: random.Random, topic: Topic, language: Language, split: Split) -> Turn:
    """One turn of small talk."""
    text, unseen = said(rng, "said", topic, language, split)
    return Turn(casual(rng, text, language, polite=False), ANSWERS[topic][language], "chat", language, unseen)


def follow_up(rng: random.Random, split: Split, language: Language) -> Conversation:
    """Two turns; the second leans on the first or stands on its own."""
    kinds = ("shape", "color", "where", "text", "describe")
    while True:
        scene = random_scene(rng, split, items=rng.choice((1, 1, 2, 3)))
        kind = rng.choice(kinds)
        first = ASKERS[kind](rng, scene, language)
        if first is None:
            continue
        if rng.random() < 0.6:
            second = _further(rng, scene, language, first)
        else:
            other = rng.choice([name for name in (*kinds[:4], "count", "yes_no") if name != kind])
            ask = ASKERS[other](rng, scene, language)
            second = None if ask is None else replace(worded(rng, other, ask, language, split), kind="follow_up")
        if second is not None:
            return Conversation([scene], [worded(rng, kind, first, language, split), second])


def _further(rng: random.Random, scene: Scene, language: Language, last: Ask) -> Turn | None:
    """A question that only makes sense after the last one: "And where is it?", "And the square?"."""
    about = last.about
    if about is None:
        return None
    key = rng.choice(("color", "where", "shape", "and", "and"))
    answer, thing = None, ""
    if key == "and" and last.key in ("color", "where"):
        others = [item for item in scene.items if item is not about and len(matching(scene, item.shape, None)) == 1]
        if others:
            other = rng.choice(others)
            thing = asked_noun(rng, language, other.shape, None)
            color = last.key == "color"
            answer = asking.color_sentence(language, other) if color else asking.place_sentence(scene, language, other)
    elif key == "color" and not last.key.startswith(("color", "describe")):
        answer = asking.color_sentence(language, about)
    elif key == "where" and last.key != "where":
        answer = asking.place_sentence(scene, language, about)
    elif key == "shape" and isinstance(about, Item) and last.key in ("color", "where"):
        answer = asking.shape_sentence(language, about.shape)
    if answer is None:
        return None
    text, _ = said(rng, "pronouns", key, language, "train")
    return Turn(casual(rng, text.replace("{thing}", thing), language), answer, "follow_up", language)
