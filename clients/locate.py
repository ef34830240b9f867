"""Where things are in a picture: what is asked, and from a model's coordinates to those of the picture.

Qwen2-VL and Qwen3-VL answer in thousandths of the picture's sides, Qwen2.5-VL in pixels of the picture as its processor
resized it. So that one is sent a picture that is resized here already, to a size that the processor leaves as it is
(`smart_resize` in transformers' image_processing_qwen2_vl.py).
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from clients.errors import AnswerError

_SIDE = 28  # pixels along one token of Qwen2.5-VL: a patch of 14, merged by 2
_DEFAULT_PIXELS = 1_003_520  # 1,280 tokens
_QWEN2_5 = re.compile(r"qwen-?2[._]5", re.IGNORECASE)


@dataclass(frozen=True)
class Box:
    """In pixels of the original picture, from its upper left corner; `right` and `lower` are behind the last one."""

    label: str
    left: float
    upper: float
    right: float
    lower: float


_RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "boxes",
        "schema": {
            "type": "array",
            "maxItems": 64,
            "items": {
                "type": "object",
                "properties": {
                    "bbox_2d": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 0, "maximum": 9999},
                        "minItems": 4,
                        "maxItems": 4,
                    },
                    "label": {"type": "string", "maxLength": 64},
                },
                "required": ["bbox_2d", "label"],
                "additionalProperties": False,
            },
        },
    },
}
# The server holds the answer to this; greedily, since a place is not a matter of taste.
OPTIONS: dict[str, Any] = {"response_format": _RESPONSE_FORMAT, "temperature": 0}


@dataclass(frozen=True)
class Task:
    """`picture` is what to send, `space` what the model's coordinates go up to, `original` (width, height) in pixels."""

    picture: Image.Image
    space: tuple[int, int]
    original: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image, model: str, max_pixels: int | None) -> "Task":
        """`image` upright and whole; `model` as the server calls it."""
        if not _QWEN2_5.search(model):
            return cls(image, (1000, 1000), image.size)
        sent = _resized(image, max_pixels)
        return cls(sent, sent.size, image.size)

    def boxes(self, answer: str) -> list[Box]:
        """Raises AnswerError for an answer that is not the list that was asked for."""
        try:
            found = json.loads(answer)
        except ValueError as error:
            raise AnswerError(f"The model did not answer with boxes: {answer[:200]!r}") from error
        if not isinstance(found, list):
            raise AnswerError(f"The model did not answer with a list of boxes: {answer[:200]!r}")
        return [_box(each, self.space, self.original) for each in found]


def question(what: str) -> str:
    """In the words that the models were trained on."""
    asked = f'Locate every instance that belongs to the following categories: "{what}".'
    return f"{asked} Report bbox coordinates in JSON format."


def _resized(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """As Qwen2.5-VL sees it: sides that are multiples of 28, within the pixel budget."""
    budget = min(max_pixels or _DEFAULT_PIXELS, image.width * image.height)
    scale = math.sqrt(budget / (image.width * image.height))
    width, height = (max(1, math.floor(side * scale / _SIDE)) * _SIDE for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _box(value: Any, space: tuple[int, int], original: tuple[int, int]) -> Box:
    numbers = value.get("bbox_2d") if isinstance(value, dict) else None
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(isinstance(n, int | float) for n in numbers):
        raise AnswerError(f"The model did not answer with a box: {value!r}")
    (width, height), (across, down) = original, space
    xs = sorted(min(max(0.0, number * width / across), float(width)) for number in numbers[0::2])
    ys = sorted(min(max(0.0, number * height / down), float(height)) for number in numbers[1::2])
    return Box(str(value.get("label", "")), xs[0], ys[0], xs[1], ys[1])
