"""Conversations about pictures: what is asked, in which words and language, and what the right answer is.

`conversation` draws from the training distribution. `question` makes one question of a given kind, for the evaluation;
its last turn is the one that is asked.
"""

import random
from dataclasses import replace

from serving.demo.pictures.scene import Scene, Split, photograph_scene, random_scene
from serving.demo.questions.chat import ANSWERS, Topic
from serving.demo.questions.one import ASKERS, about_one, follow_up, random_language, talk
from serving.demo.questions.several import about_several
from serving.demo.questions.tools import ask_with_tools
from serving.demo.questions.turns import Conversation, Turn, worded
from serving.demo.vocabulary import Language

__all__ = ["KINDS", "Conversation", "Turn", "conversation", "photograph_question", "question"]

KINDS = (*ASKERS, "tool", "several", "follow_up", "chat")

_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant that answers questions about pictures.",
    "You are a vision assistant. Answer briefly.",
    "Answer in one short sentence.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "Be concise.",
    "你是一个有用的助手。",
    "你是一个图像问答助手，请简短回答。",
)


def conversation(rng: random.Random, split: Split) -> Conversation:
    """One conversation of the training distribution."""
    kind = rng.random()
    if kind < 0.74:
        made = about_one(rng, split)
    elif kind < 0.84:
        made = about_several(rng, split, random_language(rng), rng.randint(3, 5))
    elif kind < 0.92:
        made = _with_tools(rng, split, random_language(rng))
    elif kind < 0.95:
        made = photograph_question(rng, random_language(rng), split, turns=rng.randint(1, 3))
    else:
        made = _without_picture(rng, split, random_language(rng))
    return replace(made, system=rng.choice(_SYSTEMS)) if rng.random() < 0.12 else made


def question(rng: random.Random, kind: str, language: Language, split: Split) -> Conversation:
    """One question of this kind: the last turn of the conversation, and the only one unless the kind is "follow_up"."""
    match kind:
        case "several":
            return about_several(rng, split, language, 1)
        case "tool":
            return _with_tools(rng, split, language)
        case "follow_up":
            return follow_up(rng, split, language)
        case "chat":
            return _chat(rng, split, language)
    while True:
        scene = _scene_for(rng, kind, split)
        ask = ASKERS[kind](rng, scene, language)
        if ask is not None:
            return Conversation([scene], [worded(rng, kind, ask, language, split)])


def photograph_question(rng: random.Random, language: Language, split: Split, turns: int = 1) -> Conversation:
    """Questions about a photograph; each is answered by what the model is."""
    kinds = ("describe", "describe", *ASKERS)
    asked = [question(rng, rng.choice(kinds), language, split).turns[-1] for _ in range(turns)]
    answered = [replace(turn, answer=ANSWERS["photo"][language], kind="photo") for turn in asked]
    return Conversation([photograph_scene(rng, split)], answered)


def _scene_for(rng: random.Random, kind: str, split: Split) -> Scene:
    """A picture in which a question of this kind is worth asking."""
    match kind:
        case "count":
            return random_scene(rng, split, items=rng.randint(0, 6), alike=rng.random() < 0.7)
        case "text":
            return random_scene(rng, split, text=True)
        case "shape" | "color" | "where":
            return random_scene(rng, split, items=rng.choice((1, 1, 2, 3, 4)))
        case _:
            return random_scene(rng, split)


def _with_tools(rng: random.Random, split: Split, language: Language) -> Conversation:
    while True:
        scene = random_scene(rng, split, items=rng.choice((0, 1, 1, 1, 2, 3, 4)))
        made = ask_with_tools(rng, scene, language, split)
        if made is not None:
            turn = Turn(made.question, made.answer, "tool", language, made.unseen_phrasing)
            return Conversation([scene], [turn], tools=made.tools)


def _without_picture(rng: random.Random, split: Split, language: Language) -> Conversation:
    """Text alone: small talk, or a question about a picture that did not come."""
    if rng.random() < 0.35:
        asked = question(rng, rng.choice(tuple(ASKERS)), language, split).turns[-1]
        return Conversation([], [replace(asked, answer=ANSWERS["no_picture"][language], kind="chat")])
    topics: tuple[Topic, ...] = ("hello", "who", "ability", "unknown", "thanks", "bye")
    return Conversation([], [talk(rng, topic, language, split) for topic in rng.sample(topics, rng.randint(1, 2))])


def _chat(rng: random.Random, split: Split, language: Language) -> Conversation:
    """One turn of talk: without a picture, or beside a drawing about something that it does not show."""
    if rng.random() < 0.6:
        made = _without_picture(rng, split, language)
        return replace(made, turns=made.turns[-1:])
    topic: Topic = rng.choice(("unknown", "unknown", "unknown", "who", "thanks"))
    return Conversation([random_scene(rng, split)], [talk(rng, topic, language, split)])
