"""The held-out questions: files as a user would send them, from seeds, fonts, textures and photographs that training
never sees, at every size from 64 to 2048 pixels. Judging answers is judge.py's.

Each example has its own seed, so that any one of them can be drawn again alone.
"""

import base64
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from PIL import Image

from serving.demo.pictures.draw import rasterize
from serving.demo.questions.conversations import KINDS, Conversation, photograph_question, question
from serving.demo.vocabulary import Language

SEED = 20_26
_ATTEMPTS = 60  # until a question has the phrasing that is wanted; about one in seven is unseen


@dataclass(frozen=True, slots=True)
class Picture:
    """A file: its bytes, and its MIME type."""

    data: bytes
    mime: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its right answer. `history`: earlier turns, (question, right answer)."""

    images: tuple[Picture, ...]
    system: str | None
    tools: list[dict[str, Any]] | None
    history: tuple[tuple[str, str], ...]
    question: str
    expected: str
    kind: str
    language: Language
    unseen_phrasing: bool

    def messages(self) -> list[dict[str, Any]]:
        """The conversation up to the question, as the OpenAI SDK takes it. The pictures open the first user turn."""
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in self.images]
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answer in (*self.history, (self.question, None)):
            content = [*pictures, {"type": "text", "text": asked}] if pictures else asked
            messages.append({"role": "user", "content": content})
            pictures = []
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return messages


def heldout(count: int = 2000, seed: int = SEED, *, unseen_phrasings: bool = False) -> Iterator[Example]:
    """`count` questions, every kind and both languages equally often. Their phrasings are those of training; or, with
    `unseen_phrasings`, ones that are kept out of it (kinds that have none are left out)."""
    cells = [(kind, language) for kind in KINDS for language in get_args(Language)]
    for index in range(count):
        kind, language = cells[index % len(cells)]
        for attempt in range(_ATTEMPTS):
            rng = random.Random(f"heldout {seed} {index} {attempt}")
            asked = question(rng, kind, language, "eval")
            if asked.turns[-1].unseen_phrasing == unseen_phrasings:
                yield _example(rng, asked)
                break


def photographs(count: int = 100, seed: int = SEED) -> Iterator[Example]:
    """`count` questions about photographs; the right answer to each is what the model says of photographs."""
    languages = get_args(Language)
    for index in range(count):
        rng = random.Random(f"photographs {seed} {index}")
        yield _example(rng, photograph_question(rng, languages[index % 2], "eval"))


def _example(rng: random.Random, asked: Conversation) -> Example:
    *history, last = asked.turns
    pictures = []
    for scene in asked.images:
        image = Image.fromarray(rasterize(scene, rng, "eval"))
        data, mime = _encoded(rng, image)
        pictures.append(Picture(data, mime, image.width, image.height))
    return Example(
        images=tuple(pictures),
        system=asked.system,
        tools=asked.tools,
        history=tuple((turn.question, turn.answer) for turn in history),
        question=last.question,
        expected=last.answer,
        kind=last.kind,
        language=last.language,
        unseen_phrasing=last.unseen_phrasing,
    )


def _encoded(rng: random.Random, image: Image.Image) -> tuple[bytes, str]:
    """A PNG, a JPEG of quality 40 to 95 or a WebP file."""
    buffer = io.BytesIO()
    match rng.choice(("png", "jpeg", "jpeg", "webp")):
        case "png":
            image.save(buffer, "png", compress_level=1)
            return buffer.getvalue(), "image/png"
        case "jpeg":
            image.save(buffer, "jpeg", quality=rng.randint(40, 95))
            return buffer.getvalue(), "image/jpeg"
        case _:
            image.save(buffer, "webp", quality=rng.randint(40, 95), method=1)
            return buffer.getvalue(), "image/webp"


def _data_url(picture: Picture) -> str:
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode()}"
