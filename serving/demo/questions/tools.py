"""Function schemas that a program may send along, and the calls that answer them.

Names of functions and parameters vary, some are made up: the model has to copy them from the schema, not to know them.
Some programs offer tools that do not fit the question; then the answer is a sentence as ever.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from serving.demo.pictures.scene import Item, Scene
from serving.demo.questions.asking import ask_shape
from serving.demo.questions.phrases import lines, phrase
from serving.demo.vocabulary import COLORS, SHAPES, Language

Tool = dict[str, Any]
Values = dict[str, str | int]

_VERBS = (
    "report",
    "record",
    "save",
    "submit",
    "log",
    "set",
    "store",
    "tell",
    "add",
    "send",
    "write",
    "print",
    "note",
    "show",
    "get",
    "return",
    "describe",
    "identify",
)
_OBJECTS = {
    "shape": ("shape", "figure", "object", "item", "drawing", "picture", "image", "result"),
    "color": ("color", "colour", "paint"),
    "count": ("count", "number", "number_of_shapes", "total", "amount"),
    "text": ("text", "word", "label", "writing", "letters"),
}
_WHOLE_NAMES = {
    "shape": ("identify_shape", "describe_shape", "report_shape", "shape", "draw_shape"),
    "color": ("get_color", "report_color", "identify_color"),
    "count": ("count_objects", "count_shapes", "report_count", "how_many"),
    "text": ("read_text", "ocr", "read_word", "report_text"),
}
_PARAMETERS = {
    "shape": ("shape", "shape", "shape", "shape_name", "figure", "kind", "name", "type", "form"),
    "color": ("color", "color", "color", "colour", "color_name", "fill", "hue"),
    "count": ("count", "count", "count", "number", "n", "total", "amount", "quantity"),
    "text": ("text", "text", "text", "word", "value", "content", "letters"),
}
_DESCRIPTIONS = {
    "shape": (
        "Report the shape in the picture.",
        "Record a shape and its color.",
        "Store what is drawn in the image.",
        "Tell the user which shape it is.",
    ),
    "color": ("Report the color of the shape.", "Store the color in the picture.", "Tell the user the color."),
    "count": ("Report how many shapes there are.", "Count the objects in the picture.", "Store the number of shapes."),
    "text": ("Report the text in the picture.", "Read the word printed in the image.", "Store the printed text."),
}
_UNFIT: tuple[tuple[str, str, str], ...] = (
    ("get_weather", "Get the weather of a city.", "city"),
    ("send_email", "Send an email.", "address"),
    ("search_web", "Search the web.", "query"),
    ("get_time", "Get the time in a city.", "city"),
    ("play_music", "Play a song.", "title"),
)


@dataclass(frozen=True, slots=True)
class ToolQuestion:
    """A question with tools beside it. `answer` is a call, or a sentence where no tool fits."""

    tools: list[Tool]
    question: str
    answer: str
    unseen_phrasing: bool


def ask_with_tools(rng: random.Random, scene: Scene, language: Language, split: str) -> ToolQuestion | None:
    """A question of this scene that one of the offered tools answers, or (one in seven) none of them."""
    if rng.random() < 0.14:
        ask = ask_shape(rng, scene, language)
        if ask is None:
            return None
        text, unseen = phrase(rng, ask.key, language, ask.slots, None, split)
        name, description, parameter = rng.choice(_UNFIT)
        return ToolQuestion([_schema(rng, name, description, {parameter: "string"})], text, ask.answer, unseen)
    known = _values(rng, scene)
    purpose = rng.choice(tuple(known))
    names = {key: _made_up(rng) if rng.random() < 0.06 else rng.choice(choices) for key, choices in _PARAMETERS.items()}
    purposes = [purpose]
    if rng.random() < 0.35:
        similar = ("shape", "color") if purpose in ("shape", "color") else (purpose,)
        purposes.append(rng.choice([other for other in _OBJECTS if other not in similar]))
        rng.shuffle(purposes)
    functions = {one: _function_name(rng, one) for one in purposes}
    tools = []
    for one in purposes:
        keys = tuple(known[one]) if one == purpose else (one,)
        types = {names[key]: "integer" if key == "count" else "string" for key in keys}
        tools.append(_schema(rng, functions[one], rng.choice(_DESCRIPTIONS[one]), types, keys))
    call = {"name": functions[purpose], "arguments": {names[key]: value for key, value in known[purpose].items()}}
    slots = {"do": rng.choice(lines("requests", purpose, language)[0]), "function": functions[purpose]}
    text, unseen = phrase(rng, "tool", language, slots, None, split)
    return ToolQuestion(tools, text, f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>", unseen)


def _values(rng: random.Random, scene: Scene) -> dict[str, Values]:
    """What each kind of tool would be called with; only those that this scene has an answer for."""
    known: dict[str, Values] = {"count": {"count": len(scene.items)}}
    if scene.text is not None:
        known["text"] = {"text": scene.text.value}
    if len({(item.shape, item.color) for item in scene.items}) == 1:
        known["color"] = {"color": scene.items[0].color}
        known["shape"] = _shape_values(rng, scene, scene.items[0])
    return known


def _shape_values(rng: random.Random, scene: Scene, item: Item) -> Values:
    values: Values = {"shape": item.shape}
    if rng.random() < 0.8:
        values["color"] = item.color
    if rng.random() < 0.25:
        values["count"] = len(scene.items)
    if scene.text is not None and rng.random() < 0.4:
        values["text"] = scene.text.value
    if rng.random() < 0.25:
        keys = rng.sample(tuple(values), len(values))
        return {key: values[key] for key in keys}
    return values


def _function_name(rng: random.Random, purpose: str) -> str:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_WHOLE_NAMES[purpose])
    verb, what = rng.choice(_VERBS), rng.choice(_OBJECTS[purpose])
    if kind < 0.8:
        return f"{verb}_{what}"
    if kind < 0.9:
        return verb + "".join(part.capitalize() for part in what.split("_"))
    return f"{_made_up(rng)}_{what}" if kind < 0.95 else _made_up(rng)


def _made_up(rng: random.Random) -> str:
    """A pronounceable word that means nothing."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def _schema(rng: random.Random, name: str, description: str, types: dict[str, str], keys: tuple[str, ...] = ()) -> Tool:
    """An OpenAI function schema with these parameters, sparse or wordy. `keys`: what the parameters stand for."""
    properties: dict[str, Any] = {parameter: {"type": kind} for parameter, kind in types.items()}
    for key, parameter in zip(keys, types, strict=False):
        if rng.random() < 0.2 or parameter not in _PARAMETERS[key]:
            properties[parameter]["description"] = f"The {key}"
        if key in ("shape", "color") and rng.random() < 0.12:
            properties[parameter]["enum"] = list(SHAPES if key == "shape" else COLORS)
    parameters: Tool = {"type": "object", "properties": properties}
    if rng.random() < 0.8:
        parameters["required"] = list(properties)
    described: Tool = {"name": name, "description": description, "parameters": parameters}
    if rng.random() < 0.12:
        del described["description"]
    return {"type": "function", "function": described}
