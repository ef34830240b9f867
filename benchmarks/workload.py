"""What is asked: so many pictures of such a size and a question, as the JSON lines that `vllm bench serve` reads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pictures import data_urls

# Asked in turn, so that an answer about a picture that was seen before is not itself an answer given before.
QUESTIONS = (
    "What is in the picture?",
    "Which colours does the picture have?",
    "Describe the picture in detail.",
    "What stands out in the picture?",
    "What is in the middle of the picture?",
    "What would be a title for the picture?",
)


@dataclass(frozen=True)
class Workload:
    """`pictures` in each request, of `width` × `height` pixels; `filler_words` lengthen the question."""

    title: str
    pictures: int = 1
    width: int = 1024
    height: int = 768
    filler_words: int = 0

    def requests(self, first: int, count: int, question: int = 0) -> list[list[dict[str, Any]]]:
        """The contents of `count` requests: pictures first, as the model's card does it. `first` is the number of the
        first request; one that has another number has other pictures."""
        numbers = range(first * self.pictures, (first + count) * self.pictures)
        urls = data_urls(numbers, self.width, self.height) if self.pictures else []
        each = self.pictures
        return [
            [
                *({"type": "image_url", "image_url": {"url": url}} for url in urls[place * each : (place + 1) * each]),
                {"type": "text", "text": self._text(first + place, question)},
            ]
            for place in range(count)
        ]

    def write(self, file: Path, first: int, count: int, question: int = 0) -> None:
        """The requests as a data set of the kind `custom_image`."""
        lines = (json.dumps({"content": content}) for content in self.requests(first, count, question))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _text(self, number: int, question: int) -> str:
        asked = QUESTIONS[question % len(QUESTIONS)]
        if not self.filler_words:
            return asked
        # The number comes first: two texts with the same beginning would share their cached prefix.
        return f"Text {number}. " + "onecard " * self.filler_words + asked


def pixels(text: str) -> tuple[int, int]:
    """Width and height of a picture, as an argument says them: 1024x768. Raises ValueError."""
    width, _, height = text.partition("x")
    return int(width), int(height)


PHOTO = Workload("one picture of 1024×768")
SEVERAL = Workload("four pictures of 1024×768", pictures=4)
LARGE = Workload("one picture of 4000×3000", width=4000, height=3000)
LONG = Workload("one page of 1000×6000", width=1000, height=6000)
TEXT = Workload("a text of 160 words", pictures=0, filler_words=160)
