"""Asks: as many at a time as the server serves, each picture read when its turn comes and dropped when it is answered."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from tqdm import tqdm

from clients import pdf
from clients.async_client import AsyncClient
from clients.batch.inputs import Batch, Item, picture_in, read_batch
from clients.batch.journal import Journal
from clients.batch.results import write_results
from clients.errors import AnswerError, InputError
from clients.request import why_not_sent
from clients.schema import response_format
from clients.task import Task, carry_out_async
from clients.waiting import Waiting

# A server that is started again is back within this time; without an answer for longer, the run ends and can go on later.
PATIENCE_S = 600.0
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True)
class Asked:
    """`concurrency`: None for what the server's limits say."""

    prompt: str | None = None
    system: str | None = None
    schema: str | None = None
    max_tokens: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True)
class Job:
    """A batch and what becomes of it: `about` tells its journal from those of other runs, `write` writes `out`. Of a batch
    with tasks nothing else is said."""

    batch: Batch
    out: Path
    url: str
    about: dict[str, Any]
    write: Callable[[Path, Batch, Journal], None]
    asked: Asked = Asked()
    request: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """`failures`: (id, why), in the order of the input."""

    total: int
    before: int
    failures: list[tuple[str, str]]


def run_batch(source: Path, out: Path, url: str, asked: Asked) -> Outcome:
    """Asks what has not been answered yet, and writes `out`, also when something ends it before.

    Raises InputError for input that cannot be asked about, and openai.APIError when the server is not there, refuses the
    key, or stays away.
    """
    if out.suffix.lower() not in (".jsonl", ".csv"):
        raise InputError(f"--out {out}: results are written as .jsonl or .csv.")
    request: dict[str, Any] = {"response_format": response_format(asked.schema)} if asked.schema else {}
    if asked.max_tokens:
        request["max_completion_tokens"] = asked.max_tokens
    batch = read_batch(source, asked.prompt)
    about = {"prompt": asked.prompt, "system": asked.system, "schema": request.get("response_format")}
    return run_job(Job(batch, out, url, about | {"max_tokens": asked.max_tokens}, write_results, asked, request))


def run_job(job: Job) -> Outcome:
    """As `run_batch`, which ends here."""
    file = job.out.with_name(job.out.name + ".journal")
    if job.out.exists() and not file.exists():
        raise InputError(
            f"{job.out} is there already, and not of a run that can go on. Name another --out, or move it away."
        )
    return asyncio.run(_run(job, file))


async def _run(job: Job, file: Path) -> Outcome:
    batch = job.batch
    async with AsyncClient(job.url) as client:
        with Waiting(client.connection):  # a server that starts holds this question until it is ready
            model = await client.model()
        run = {"input": str(batch.source.resolve()), "model": model, **job.about}
        with Journal(file, run) as journal:
            before = len(journal.answered)
            left = [item for item in batch.items if item.id not in journal.answered]
            bar = tqdm(total=len(batch.items), initial=before, unit=" pictures", file=sys.stderr, disable=None)
            try:
                with bar:
                    work = _Work(client, batch, journal, job.asked, job.request, bar)
                    await work.ask_all(left)
                    again = [item for item in left if item.id in journal.failed]
                    await work.ask_all(again)  # what hindered them may be over
            finally:
                job.write(job.out, batch, journal)
            failures = [(item.id, str((journal.get(item.id) or {}).get("error"))) for item in batch.items
                        if item.id in journal.failed]  # fmt: skip
            return Outcome(len(batch.items), before, failures)


class _Work:
    def __init__(
        self, client: AsyncClient, batch: Batch, journal: Journal, asked: Asked, request: dict[str, Any], bar: Any
    ) -> None:
        self._client, self._batch, self._journal, self._asked, self._bar = client, batch, journal, asked, bar
        self._request = request
        self._heard = time.monotonic()  # when the server last answered anything

    async def ask_all(self, items: list[Item]) -> None:
        """Raises the first error that concerns the run and not one picture."""
        workers = self._asked.concurrency or (await self._client.limits()).concurrency
        queue = iter(items)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(workers, len(items))):
                    group.create_task(self._worker(queue))
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
            raise (first.__cause__ or first if isinstance(first, _EndOfRun) else first) from None

    async def _worker(self, queue: Iterator[Item]) -> None:
        for item in queue:
            record = await self._record(item)
            again = item.id in self._journal.failed
            self._journal.add(record)
            self._bar.update(0 if again else 1)

    async def _record(self, item: Item) -> dict[str, Any]:
        """What the journal keeps of it: the answer, or why there is none."""
        began = time.monotonic()
        record: dict[str, Any] = {"id": item.id, "image": item.image, "answer": None, "error": None}
        if item.image and pdf.is_pdf(item.image):
            record["page"] = pdf.page_number(item.image)
        try:
            if self._batch.task:
                answer = await self._done(self._batch.task(item))
                return record | {"answer": answer, "seconds": round(time.monotonic() - began, 3)}
            request = await self._prepared(item)
            reply = await self._patiently(request)
        except (InputError, AnswerError, OSError) as error:
            return record | {"error": str(error)}
        except UnicodeEncodeError as error:
            return record | {"error": why_not_sent(error)}
        except openai.APITimeoutError as error:
            return record | {"error": str(error)}
        except openai.APIStatusError as error:
            return record | {"error": f"{error.status_code}: {error.message}"}
        choice = reply.choices[0]
        if self._asked.schema and choice.finish_reason == "length":
            return record | {"error": "the answer was cut short, so it is not whole JSON: give it more --max-tokens"}
        record |= {"answer": choice.message.content, "seconds": round(time.monotonic() - began, 3)}
        if reply.usage:
            record |= reply.usage.model_dump(include={"prompt_tokens", "completion_tokens"})
        return record | ({"response": reply.model_dump(mode="json")} if self._batch.requests else {})

    async def _done(self, task: Task[Any]) -> dict[str, Any]:
        messages = await self._client.messages(task.pictures, task.question, task.system)
        steps = task.steps({"model": await self._client.model(), "messages": messages})
        result = await carry_out_async(steps, self._patiently)
        return result.model_dump()  # type: ignore[no-any-return]

    async def _prepared(self, item: Item) -> dict[str, Any]:
        """The request; the picture is in memory from here until it is answered."""
        row = await asyncio.to_thread(self._batch.record, item) if item.line is not None else {}
        model = {"model": await self._client.model()}
        if self._batch.requests:
            # Around `create`, which knows less than a server may take and has a meaning of its own for `timeout`.
            return {**model, "messages": [], "extra_body": {**row["body"], **model, "stream": False}}
        picture = item.image if item.image is not None else picture_in(row)
        prompt = item.prompt or self._asked.prompt or ""
        messages = await self._client.messages(picture, prompt, self._asked.system)
        return {**self._request, **model, "messages": messages}

    async def _patiently(self, request: dict[str, Any]) -> Any:
        """The reply; a server that is away, starting or full is asked again. It says itself when (the SDK waits)."""
        pause = 1.0
        while True:
            try:
                reply = await self._client.openai.chat.completions.create(**request)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise _EndOfRun from error
            except openai.APITimeoutError:
                raise
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
                if isinstance(error, openai.InternalServerError) and error.status_code != 503:
                    raise
                if time.monotonic() - self._heard > PATIENCE_S:
                    raise _EndOfRun from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._heard = time.monotonic()
                return reply


class _EndOfRun(Exception):  # noqa: N818
    """Carries what ends the run past what only concerns one picture."""
