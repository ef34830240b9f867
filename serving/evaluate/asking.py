"""A server asked, and its answers kept: one JSON line each, so that an interruption loses none of them."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

from clients.client import Client
from clients.errors import AnswerError
from serving.errors import NotRunningError, OnecardError
from serving.evaluate.questions import Question

_AT_ONCE = 8
_HELD = 64  # questions drawn ahead: pictures are large
_LIKELIEST = 8  # tokens whose probabilities are compared
_SAID_EVERY_S = 5.0
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Answer:
    """`tokens`: for each token of the answer itself and the likeliest ones there, by their log-probabilities."""

    key: str
    text: str
    right: bool
    tokens: list[tuple[str, dict[str, float]]]


def read_journal(file: Path) -> dict[str, Answer]:
    """What has been answered, by its question's key; a line that was cut off is left out, to be asked again."""
    answers = {}
    # Bytes: a full disk cuts within a letter, and an answer may hold what str.splitlines takes for a line's end.
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
            answers[row["key"]] = Answer(**{**row, "tokens": [(token, near) for token, near in row["tokens"]]})
        except (ValueError, TypeError, KeyError):
            continue
    return answers


def ask_all(url: str, questions: Iterable[Question], count: int, journal: Path | None, title: str) -> dict[str, Answer]:
    """The answers of the server at `url`, those that `journal` has among them; its key is ONECARD_API_KEY. Raises
    OnecardError where it refuses."""
    known = read_journal(journal) if journal else {}
    answers: dict[str, Answer] = {}
    progress = _Progress(title, count)

    def unanswered() -> Iterator[Question]:
        for question in questions:
            if question.key in known:
                answers[question.key] = known[question.key]
                progress.had_before()
            else:
                yield question

    try:
        with Client(url, timeout_s=_TIMEOUT_S) as client, _kept(journal) as keep, ThreadPoolExecutor(_AT_ONCE) as pool:
            model = client.model
            for answer in _in_turn(pool, unanswered(), lambda question: _ask(client.openai, model, question)):
                answers[answer.key] = answer
                keep(answer)
                progress.one(answer.right)
    except openai.APIConnectionError as error:
        again = " The same command goes on." if journal else ""
        raise NotRunningError(f"No server answers at {url} any more ({error}).{again}") from error
    except openai.AuthenticationError as error:
        raise OnecardError(f"{url} needs a key: set ONECARD_API_KEY to one that it knows.") from error
    except openai.APIStatusError as error:
        raise OnecardError(f"{url} does not say what it serves ({error.status_code}): {error.message}") from error
    except AnswerError as error:
        raise OnecardError(f"{url}: {error}") from error
    progress.end()
    return answers


@contextlib.contextmanager
def _kept(journal: Path | None) -> Iterator[Callable[[Answer], None]]:
    """What keeps an answer in the journal, where there is one."""
    if journal is None:
        yield lambda _: None
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    cut_off = journal.is_file() and journal.read_bytes()[-1:] not in (b"", b"\n")
    with journal.open("a", encoding="utf-8") as out:

        def keep(answer: Answer) -> None:
            out.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
            out.flush()

        if cut_off:  # by a kill: the next line must not become a part of it
            out.write("\n")
        yield keep


def _in_turn(
    pool: ThreadPoolExecutor, questions: Iterator[Question], ask: Callable[[Question], Answer]
) -> Iterator[Answer]:
    while some := list(islice(questions, _HELD)):
        yield from pool.map(ask, some)


def _ask(client: OpenAI, model: str, question: Question) -> Answer:
    messages: Any = question.messages()
    # "none": the call is judged as the model wrote it, so a server without a parser for it can be asked as well.
    tools: Any = {"tools": question.tools, "tool_choice": "none"} if question.tools else {}
    try:
        reply = client.chat.completions.create(
            model=model,
            messages=messages,
            temperature=0,
            max_tokens=200,
            logprobs=True,
            top_logprobs=_LIKELIEST,
            **tools,
        )
    except openai.AuthenticationError:
        raise
    except openai.APIStatusError as error:
        raise OnecardError(
            f"{client.base_url} refused the question {question.key} ({error.status_code}): {error.message}"
        ) from error
    choice = reply.choices[0]
    told = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    tokens = [(each.token, {near.token: round(near.logprob, 5) for near in each.top_logprobs}) for each in told]
    text = choice.message.content or ""
    return Answer(question.key, text, question.right(text), tokens)


class _Progress:
    """A line every few seconds: how many, how many right, and how long it will still take."""

    def __init__(self, title: str, count: int) -> None:
        self._title, self._count = title, count
        self._done = self._before = self._right = 0
        self._began = self._said = time.monotonic()

    def had_before(self) -> None:
        self._done += 1
        self._before += 1

    def one(self, right: bool) -> None:
        self._done += 1
        self._right += right
        if time.monotonic() - self._said > _SAID_EVERY_S:
            self._said = time.monotonic()
            self._say()

    def end(self) -> None:
        if self._done > self._before:
            self._say()

    def _say(self) -> None:
        asked = self._done - self._before
        left = (self._count - self._done) * (time.monotonic() - self._began) / asked
        sys.stderr.write(
            f"{self._title}: {self._done} of {self._count} asked, {self._right / asked:.1%} right, about {left:.0f} s left\n"
        )
