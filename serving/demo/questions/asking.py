"""Questions about one picture and their right answers. Each function looks for one question of its kind that this scene
answers beyond doubt, and returns None when there is none.

How the answers are worded is fixed here, once: short full sentences with the words of vocabulary.py.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.demo.pictures.colors import name_of
from serving.demo.pictures.scene import Item, Scene, Text, place_of
from serving.demo.questions.grammar import (
    PLACE_ALIASES,
    asked_color,
    asked_noun,
    asked_shape,
    at_place,
    capital,
    group,
    listing,
    noun,
    pick,
    with_article,
)
from serving.demo.questions.truths import (
    answer_name,
    asked_name,
    definite,
    description,
    groups,
    left_to_right,
    matching,
    only_at,
)
from serving.demo.vocabulary import COLORS, PLACES, SHAPES, Language

_SHAPES, _COLORS, _PLACES = tuple(SHAPES), tuple(COLORS), tuple(PLACES)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question (the template `key` of phrases.py and what fills it in) and the right answer."""

    key: str
    answer: str
    slots: dict[str, str] = field(default_factory=dict)
    about: Item | Text | None = None  # what a further question can call "it"


Asker = Callable[[random.Random, Scene, Language], Ask | None]


def other_than(rng: random.Random, names: Sequence[str], *besides: str) -> str:
    """One of the names that is none of `besides`."""
    return rng.choice([name for name in names if name not in besides])


def shape_sentence(language: Language, shape: str) -> str:
    """ "A circle." """
    return capital(group(language, 1, shape)) + pick(language, ".", "。")


def ask_shape(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if not scene.items:
        return None if rng.random() < 0.7 else Ask("shape", NO_SHAPES[language])
    kind = rng.random()
    item = rng.choice(scene.items)
    if kind < 0.35 and len(scene.items) > 1:
        if len(matching(scene, None, item.color)) != 1:
            return None
        slots = {"color": asked_color(rng, language, item.color)}
        return Ask("shape.of_color", shape_sentence(language, item.shape), slots, item)
    if kind < 0.6 and len(scene.items) > 1:
        place = rng.choice(_PLACES)
        found = only_at(scene, place)
        if found is None:
            return None
        slots = {"place": rng.choice(PLACE_ALIASES[language][place])}
        return Ask("shape.at", shape_sentence(language, found.shape), slots, found)
    if kind > 0.88 and len(scene.items) == 1:
        pair = [item.shape, other_than(rng, _SHAPES, item.shape)]
        rng.shuffle(pair)
        names = [asked_shape(rng, language, name) for name in pair]
        slots = dict(zip(("first", "second"), map(with_article, names) if language == "en" else names, strict=True))
        return Ask("shape.either", shape_sentence(language, item.shape), slots, item)
    if kind < 0.25 and len(scene.items) == 1:
        return Ask("shape.only", shape_sentence(language, item.shape), about=item)
    counts: dict[str, int] = {}
    for one in left_to_right(scene.items):
        counts[one.shape] = counts.get(one.shape, 0) + 1
    words = listing(language, [group(language, count, shape) for shape, count in counts.items()])
    return Ask("shape", capital(words) + pick(language, ".", "。"), about=item if len(scene.items) == 1 else None)


def color_sentence(language: Language, thing: Item | Text) -> str:
    """ "The circle is red." """
    if isinstance(thing, Text):
        return pick(language, f"The text is {thing.color}.", f"文字是{COLORS[thing.color]}的。")
    name = noun(language, thing.shape, None)
    return pick(language, f"The {name} is {thing.color}.", f"{name}是{COLORS[thing.color]}的。")


def _colors_sentence(language: Language, alike: Sequence[Item]) -> str:
    """Of several items of one shape: "The circles are red and blue." """
    name, colors = noun(language, alike[0].shape, None, len(alike)), _colors(language, alike)
    return pick(language, f"The {name} are {colors}.", f"{name}是{colors}的。")


def _colors(language: Language, items: Sequence[Item]) -> str:
    names = dict.fromkeys(item.color for item in left_to_right(items))
    return listing(language, [name if language == "en" else COLORS[name] for name in names])


def _ask_background(scene: Scene, language: Language) -> Ask | None:
    name = name_of(scene.base)
    if name is None:
        return None
    answer = pick(language, f"The background is {name}.", f"背景是{COLORS[name]}的。")
    return Ask("color", answer, {"thing": pick(language, "the background", "背景")})


def ask_color(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    kind = rng.random()
    if scene.text is not None and (kind < 0.2 or not scene.items):
        thing = asked_name(rng, scene, language, scene.text, color=False) or ""
        return Ask("color", color_sentence(language, scene.text), {"thing": thing}, scene.text)
    if kind > 0.95:
        return _ask_background(scene, language)
    if not scene.items:
        return None
    item = rng.choice(scene.items)
    if kind < 0.3 and len(scene.items) > 1:
        place = rng.choice(_PLACES)
        found = only_at(scene, place)
        if found is None:
            return None
        where = rng.choice(PLACE_ALIASES[language][place])
        thing = f"the {asked_noun(rng, 'en', None, None)} {where}" if language == "en" else f"{where}的图形"
        return Ask("color", color_sentence(language, found), {"thing": thing}, found)
    if kind < 0.2 and scene.text is None and len(scene.items) == 1:
        return Ask("color.only" if kind < 0.12 else "color.all", color_sentence(language, item), about=item)
    if kind < 0.42 and len(scene.items) > 1 and scene.text is None:
        return Ask("color.all", capital(_colors(language, scene.items)) + pick(language, ".", "。"))
    same_shape = matching(scene, item.shape, None)
    if len(same_shape) > 1:
        thing = definite(language, asked_noun(rng, language, item.shape, None, len(same_shape)))
        key = "color.of_many" if language == "en" else "color"
        return Ask(key, _colors_sentence(language, same_shape), {"thing": thing})
    name = asked_name(rng, scene, language, item, color=False)
    if name is None:
        return None
    if kind > 0.87:
        pair = [item.color, other_than(rng, _COLORS, item.color)]
        rng.shuffle(pair)
        first, second = (asked_color(rng, language, color) for color in pair)
        slots = {"thing": name, "first": first, "second": second}
        return Ask("color.either", color_sentence(language, item), slots, item)
    return Ask("color", color_sentence(language, item), {"thing": name}, item)


def place_sentence(scene: Scene, language: Language, thing: Item | Text) -> str | None:
    """ "The circle is in the top left." None where the place is in doubt."""
    place = place_of(thing)
    if place is None:
        return None
    name, where = answer_name(scene, language, thing), at_place(language, place)
    return pick(language, f"{capital(name)} is {where}.", f"{name}在{where}。")


def ask_where(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    things: list[Item | Text] = [*scene.items, *([scene.text] if scene.text else [])]
    if not things:
        return None
    thing = rng.choice(things)
    name = asked_name(rng, scene, language, thing, color=True)
    answer = place_sentence(scene, language, thing)
    return Ask("where", answer, {"thing": name}, thing) if name and answer else None


def count_sentence(language: Language, count: int, shape: str | None, color: str | None) -> str:
    """ "There are 3 stars." """
    if language == "zh":
        return f"有{count}个{noun('zh', shape, color)}。"
    name = noun("en", shape, color, count) if shape or color else ("shape" if count == 1 else "shapes")
    return f"There {'is' if count == 1 else 'are'} {count} {name}."


def random_target(rng: random.Random, scene: Scene, share_present: float) -> tuple[str | None, str | None]:
    """A shape, a colour or both, present in the scene or a near miss of what is."""
    if scene.items and rng.random() < share_present:
        item = rng.choice(scene.items)
        shape, color = item.shape, item.color
    elif scene.items and rng.random() < 0.5:
        item = rng.choice(scene.items)
        if rng.random() < 0.5:
            shape, color = item.shape, other_than(rng, _COLORS, item.color)
        else:
            shape, color = other_than(rng, _SHAPES, item.shape), item.color
    else:
        shape, color = rng.choice(_SHAPES), rng.choice(_COLORS)
    kind = rng.random()
    if kind < 0.4:
        return shape, None
    return (None, color) if kind < 0.65 else (shape, color)


def ask_count(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    shape, color = (None, None) if rng.random() < 0.3 else random_target(rng, scene, 0.88)
    if shape is None and color is None:
        if language == "en":
            things = rng.choice(("shapes", "shapes", "figures") if scene.text else ("shapes", "objects", "figures"))
        else:
            things = rng.choice(("图形", "图形", "形状"))
    else:
        things = asked_noun(rng, language, shape, color, count=2)
    if color is not None and shape is None and scene.text is not None and scene.text.color == color:
        return None  # is a red word a red object?
    count = len(matching(scene, shape, color))
    if shape is None and color is None and scene.text is None and rng.random() < 0.3:
        return Ask("count.all", count_sentence(language, count, None, None))
    return Ask("count", count_sentence(language, count, shape, color), {"things": things})


NO_SHAPES: dict[Language, str] = {"en": "There are no shapes in the picture.", "zh": "图片中没有图形。"}
NO_TEXT: dict[Language, str] = {"en": "There is no text in the picture.", "zh": "图片中没有文字。"}


def ask_text(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    del rng
    if scene.text is None:
        return None
    return Ask(
        "text", pick(language, f'It says "{scene.text.value}".', f'图片上写着"{scene.text.value}"。'), about=scene.text
    )


def ask_description(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    if len(scene.items) > 1 and rng.random() < 0.25:
        place = rng.choice(_PLACES)
        found = only_at(scene, place)
        if found is not None:
            words = capital(group(language, 1, found.shape, found.color)) + pick(language, ".", "。")
            return Ask("describe.at", words, {"place": rng.choice(PLACE_ALIASES[language][place])}, found)
    only = scene.items[0] if len(scene.items) == 1 and scene.text is None else None
    if not scene.items and scene.text is None:
        return Ask("describe", pick(language, "The picture is empty.", "图片是空白的。"))
    words = description(scene, language)
    return Ask("describe", pick(language, f"The picture shows {words}.", f"图片中有{words}。"), about=only)


def ask_absent(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    """A question about something that the picture does not have."""
    if scene.text is None and rng.random() < 0.35:
        return Ask("text", NO_TEXT[language])
    shape = other_than(rng, _SHAPES, *(item.shape for item in scene.items))
    color = rng.choice(_COLORS) if rng.random() < 0.3 else None
    words, asked = noun(language, shape, color), asked_noun(rng, language, shape, color)
    thing = definite(language, asked)
    answer = pick(language, f"There is no {words} in the picture.", f"图片中没有{words}。")
    key = rng.choice(("where", "color", "is_color")) if color is None else "where"
    return Ask(key, answer, {"thing": thing, "color": asked_color(rng, language, rng.choice(_COLORS))})


def facts(rng: random.Random, scene: Scene) -> dict[str, str | int]:
    """What can be said of a picture in a flat object: shape and colour when all items are alike, the word, the count."""
    found: dict[str, str | int] = {}
    alike = groups(scene.items)
    if len(alike) == 1:
        count, shape, color = alike[0]
        found |= {"shape": shape, "color": color}
        place = place_of(scene.items[0])
        if count == 1 and place is not None and rng.random() < 0.3:
            found["place"] = place
    if scene.text is not None:
        found["text"] = scene.text.value
    if scene.items and rng.random() < (0.4 if len(alike) == 1 else 1.0):
        found["count"] = len(scene.items)
    return found


def ask_json(rng: random.Random, scene: Scene, language: Language) -> Ask | None:
    found = facts(rng, scene)
    if not found:
        return None
    keys = rng.sample(sorted(found), rng.randint(1, len(found)))
    if {"shape", "color"} & set(keys) and rng.random() < 0.6:  # the two most asked for, in their usual order
        keys = ["shape", "color", *(key for key in keys if key not in ("shape", "color"))]
    quoted = [f'"{key}"' for key in keys] if rng.random() < 0.3 else keys
    words = listing(language, quoted) if rng.random() < 0.7 else ", ".join(quoted)
    blanks = {key: 0 if key == "count" else "..." for key in keys}
    return Ask("json", json.dumps({key: found[key] for key in keys}), {"keys": words, "form": json.dumps(blanks)})
