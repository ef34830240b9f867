"""What is asked: the demo model's held-out suite, or a JSONL file of pictures with questions and answers.

A line is `{"image": "a.jpg", "question": "…", "answer": "…"}`; `images` for several, `answer` may be a list of which any is
right. Paths are relative to the file.
"""

import base64
import hashlib
import json
import mimetypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from serving.errors import UsageError


@dataclass(frozen=True)
class Question:
    """`key` is another one when a picture has changed. `right` judges an answer. `messages` gives them as the OpenAI SDK takes
    them, when they are sent: pictures are large."""

    key: str
    messages: Callable[[], list[dict[str, Any]]]
    tools: list[dict[str, Any]] | None
    right: Callable[[str], bool]


def demo_questions(count: int) -> Iterator[Question]:
    """The held-out questions of the demo model, judged by facts and not by letters; drawn as they are asked."""
    from serving.demo.questions.heldout import heldout
    from serving.demo.questions.judge import is_right

    for index, example in enumerate(heldout(count)):
        yield Question(f"demo-{index}", example.messages, example.tools, partial(is_right, example))


def file_questions(file: Path) -> list[Question]:
    """The questions of a JSONL file. Raises UsageError naming the first line that is none."""
    try:
        lines = file.read_bytes().splitlines()  # of bytes: a text has more ends of lines than JSONL
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error}). --questions takes a JSONL file.") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_question(json.loads(line), f"{file.stem}-{number}", file.parent))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f'{file}, line {number} is no question ({error}). A line is {{"image": "a.jpg", "question": "…", "answer": '
                '"…"}.'
            ) from error
    if not found:
        raise UsageError(f"{file} holds no questions.")
    return found


def _question(row: dict[str, Any], key: str, folder: Path) -> Question:
    pictures = [folder / name for name in row.get("images") or ([row["image"]] if "image" in row else [])]
    for file in pictures:
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
    if pictures:
        seen = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in pictures)
        key = f"{key}-{hashlib.sha256(seen).hexdigest()[:12]}"
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    accepted = {normalized(str(answer)) for answer in answers}
    messages = partial(_messages, pictures, str(row["question"]))
    return Question(key, messages, None, lambda answer: normalized(answer) in accepted)


def _messages(pictures: list[Path], question: str) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _data_url(file)}} for file in pictures]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def normalized(answer: str) -> str:
    """An answer without what does not matter for an exact match: case, outer punctuation, repeated spaces."""
    return re.sub(r"\s+", " ", answer).strip(" \n.,;:!?\"'。，；：！？“”‘’").casefold()


def _data_url(file: Path) -> str:
    mime = mimetypes.guess_type(file.name)[0] or "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(file.read_bytes()).decode()}"
