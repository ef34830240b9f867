"""`onecard ask`: the thin client on the command line."""

import glob
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from openai.types import CompletionUsage

from clients import pdf, video
from clients.client import Client
from clients.conversation import turn
from clients.errors import AnswerError, InputError
from clients.images import Picture, opened, read
from clients.places import is_file, place
from clients.schema import response_format
from clients.waiting import Waiting

_MEASURABLE_S = 0.02


@dataclass(frozen=True)
class Options:
    """`schema` is a JSON schema or the name of a file with one; `follow` goes on with the lines of standard input."""

    max_tokens: int | None = None
    system: str | None = None
    schema: str | None = None
    as_json: bool = False
    follow: bool = False


def ask(images: list[str], question: str, url: str, options: Options) -> None:
    """Streams the answer to stdout, then time to first token and speed to stderr; with `as_json` one object instead.

    Raises InputError, AnswerError, OSError and openai.APIError.
    """
    if options.follow and "-" in images:
        raise InputError(
            "--follow reads the next questions from standard input, so the picture cannot come from there."
        )
    request: dict[str, Any] = {}
    if options.max_tokens is not None:
        request["max_completion_tokens"] = options.max_tokens
    if options.schema is not None:
        request["response_format"] = response_format(options.schema)
    pictures = [_picture(name) for pattern in images for name in _named(pattern)]
    with Client(url) as client:
        said = client.messages(pictures, question, options.system)
        said = _answered(client, said, request, options)
        for line in _questions() if options.follow else ():
            said = _answered(client, turn(said, line), request, options)


def _named(pattern: str) -> list[str]:
    """The files that a pattern names, for shells that hand it over as it is; any other name is itself, as that of a file
    `photo[1].jpg` is."""
    if "://" in pattern or not glob.has_magic(pattern) or is_file(pattern):
        return [pattern]
    return sorted(glob.glob(str(place(pattern)), recursive=True)) or [pattern]


def _picture(name: str) -> Picture:
    """Read before anybody is asked: a mistake in a name is told at once. PDFs and videos when the limits are known."""
    if pdf.is_pdf(name) or video.is_video(name):
        return name
    data = read(name)
    opened(data, "standard input" if name == "-" else name)
    # A file stays its name, by which it is called where it cannot be decoded. Pipes and the web are read only once.
    return name if is_file(name) else data


def _questions() -> Iterable[str]:
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _answered(client: Client, asked: list[Any], request: dict[str, Any], options: Options) -> list[Any]:
    """What has been said, with the answer."""
    began = time.monotonic()
    first, answer, finish = 0.0, "", None
    usage: CompletionUsage | None = None
    with Waiting(client.connection) as waiting:
        for chunk in client.chunks(asked, **request):
            if chunk.choices:
                finish = chunk.choices[0].finish_reason or finish
                if text := chunk.choices[0].delta.content:
                    first = first or time.monotonic()
                    answer += text
                    if not options.as_json:
                        waiting.end()
                        sys.stdout.write(text)
                        sys.stdout.flush()
            usage = chunk.usage or usage
    now = time.monotonic()
    if options.as_json:
        found = {"answer": answer, "model": client.model, "finish_reason": finish, "seconds": round(now - began, 3)}
        used = usage.model_dump(include={"prompt_tokens", "completion_tokens"}) if usage else None
        sys.stdout.write(json.dumps(found | {"usage": used}, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("\n")
        tokens = usage.completion_tokens if usage else 0
        sys.stderr.write(f"[{_speed(began, first, now, tokens) if first else 'the answer is empty'}]\n")
    sys.stdout.flush()
    if options.schema is not None and finish == "length":
        raise AnswerError("The answer was cut short, so it is not whole JSON. Give it more room with --max-tokens.")
    return [*asked, {"role": "assistant", "content": answer}]


def _speed(began: float, first: float, now: float, tokens: int) -> str:
    if tokens > 1 and now - first > _MEASURABLE_S:
        speed = f"{(tokens - 1) / (now - first):.0f} tokens/s"
    else:  # it came in one piece: what can be told is the speed of the whole
        speed = f"{tokens / (now - began):.0f} tokens/s in all"
    return f"first token after {first - began:.2f} s, {speed}"
