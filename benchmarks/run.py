"""A run: contenders are started, asked each question and stopped, one after the other, together on one large GPU, or spread
over several. A contender that does not start or dies is a row that says so; the others go on.
"""

import contextlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from benchmarks import servers, watch
from benchmarks.contenders import Contender, Setting
from benchmarks.generator import Generator
from benchmarks.memory_device import giving_back
from benchmarks.questions import Case, Question, burst, start
from benchmarks.results import Book, Facts
from benchmarks.servers import DiedError, Server, StoppedError
from benchmarks.spread import spread
from benchmarks.target import NotServedError, Scope, Target, ToServer, ToTransformers
from benchmarks.worker import Worker, WorkerError
from benchmarks.workload import PHOTO


@dataclass(frozen=True)
class Place:
    """One GPU with its share of the cores. `generator` is empty where nobody is held to any."""

    gpu: str | None
    cores: tuple[int, ...]
    generator: tuple[int, ...] = ()

    @cached_property
    def nvml_index(self) -> int | None:
        """Which GPU is watched; None where there is none."""
        return watch.index_of(self.gpu)

    def server_cores(self, contender: Contender) -> tuple[int, ...]:
        """Those of the place that are not the generator's: as many as the contender is held to, or all."""
        left = self.cores[: len(self.cores) - len(self.generator)]
        return left[: contender.cores] if contender.cores or self.generator else ()


@dataclass(frozen=True)
class Job:
    """What a run is made of. `folder` is where logs go. With `caches`, each contender keeps what it compiles in a folder of
    its own below it: those that start at the same time must not write into the same files."""

    questions: Sequence[Question]
    scope: Scope
    setting: Setting
    book: Book
    folder: Path
    caches: Path | None = None
    stopping: threading.Event = field(default_factory=threading.Event)


def run_all(job: Job, contenders: Sequence[Contender], places: Sequence[Place], *, together: bool) -> None:
    """Asks everything of everyone. Places work at the same time; in each one contender at a time is measured."""
    groups = [contenders[n :: len(places)] for n in range(len(places))] if together else [[c] for c in contenders]
    with ExitStack() as stack:
        generators = {
            place: stack.enter_context(
                contextlib.closing(Generator(job.folder / f"generator-{place.gpu or 0}.log", place.generator))
            )
            for place in places
        }
        # Where it is stopped, the servers are ended by the threads that started them.
        spread(groups, places, lambda place, group: _run_group(job, group, place, generators[place]), job.stopping)


def ask_url(job: Job, contender: Contender, url: str, model: str, generator: Generator) -> None:
    """The same questions to a server that somebody else has started."""
    job.book.started(contender.name, Facts(title=contender.title, command=url))
    gpu = watch.index_behind(url)
    _ask(job, [Target(contender, job.scope, ToServer(generator, url, model), job.book.say, gpu)])


def _run_group(job: Job, group: Sequence[Contender], place: Place, generator: Generator) -> None:
    asked = [question for question in job.questions if question is not start.QUESTION]
    if asked:
        with ExitStack() as stack:
            opened = [stack.enter_context(_opened(job, contender, place)) for contender in group]
            alone = len(group) == 1
            _ask(job, [target for each in opened if (target := _target(job, each, place, generator, alone=alone))])
    if start.QUESTION in job.questions:
        for contender in group:
            if contender.serves:
                _measure_starts(job, contender, place, generator)


@contextlib.contextmanager
def _opened(job: Job, contender: Contender, place: Place) -> Iterator[tuple[Contender, Server | Worker]]:
    """A contender that was started, and is stopped afterwards."""
    folder = job.folder / contender.name
    folder.mkdir(parents=True, exist_ok=True)
    cores = place.server_cores(contender)
    started: Server | Worker
    if contender.serves:
        caches = job.caches / contender.name if job.caches else None
        started = servers.start(contender, job.setting, folder, job.stopping, gpu=place.gpu, cores=cores, caches=caches)
    else:
        gpu = {} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}
        log = folder / "generate.log"
        started = Worker("benchmarks.generate", str(job.setting.folder), log=log, cores=cores, environment=gpu)
    try:
        yield contender, started
    finally:
        with giving_back(place.nvml_index) as given:
            started.stop()
        for gpu_mib in given:
            job.book.ended(contender.name, gpu_mib)


def _target(
    job: Job, opened: tuple[Contender, Server | Worker], place: Place, generator: Generator, *, alone: bool
) -> Target | None:
    """What questions can be put to, once it is ready; None, and a row that says why, when it does not start."""
    contender, started = opened
    facts = Facts(title=contender.title, cores=contender.cores)
    if isinstance(started, Worker):
        job.book.started(contender.name, facts.model_copy(update={"command": "python -m benchmarks.generate"}))
        return Target(contender, job.scope, ToTransformers(started), job.book.say, place.nvml_index)
    facts.command = job.book.shortened(started.command)
    try:
        started.wait_until_ready()
    except DiedError as error:
        job.book.started(contender.name, facts.model_copy(update={"failed": f"did not start: {error}"}))
        return None
    facts.ready_s = started.ready_s if alone else None
    facts.weights_gib, facts.loading_s = started.loaded()
    job.book.started(contender.name, facts)
    sender = ToServer(generator, f"{started.url}/v1", started.model, started)
    return Target(contender, job.scope, sender, job.book.say, place.nvml_index)


def _ask(job: Job, targets: list[Target]) -> None:
    """Every question, case and repetition; within a repetition one contender after the other, so that a drift of the
    machine meets all of them alike."""
    questions = [question for question in job.questions if question is not start.QUESTION]
    # A first burst is one only where nothing came before it; it warms up what is asked next.
    questions.sort(key=lambda question: question is not burst.QUESTION)
    if burst.QUESTION not in questions:
        for target in targets:
            _warm(target)
    for question in questions:
        for case in question.cases(job.scope):
            alive = list(targets)
            for _ in range(case.repetitions or job.scope.repetitions):
                alive = [target for target in alive if _measured(job, question, case, target)]


def _warm(target: Target) -> None:
    """An unmeasured round; if it fails, the first question will say so."""
    clients = max(target.scope.clients) if target.contender.serves else 1
    with contextlib.suppress(DiedError, WorkerError, ValueError):
        target.closed_loop(PHOTO, clients, count=clients)


def _measured(job: Job, question: Question, case: Case, target: Target) -> bool:
    """One repetition; False when another would end the same way."""
    if job.stopping.is_set():
        raise StoppedError
    name = target.contender.name
    try:
        figures = case.measure(target)
    except NotServedError:
        return False
    except DiedError as error:
        job.book.fail(question.name, case.name, name, f"died: {error}")
        return False
    except (WorkerError, ValueError) as error:
        job.book.fail(question.name, case.name, name, str(error))
        return False
    job.book.add(question.name, case.name, name, figures, question.told)
    return True


def _measure_starts(job: Job, contender: Contender, place: Place, generator: Generator) -> None:
    """Starts with empty and with warm caches, in turn, each followed by a first and a second burst."""
    for number in range(job.scope.repetitions):
        caches = job.folder / contender.name / f"caches-{number}"
        for case in start.CASES:
            server = servers.start(
                contender,
                job.setting,
                job.folder / contender.name / f"start-{number}",
                job.stopping,
                gpu=place.gpu,
                cores=place.server_cores(contender),
                caches=caches,
            )
            command = job.book.shortened(server.command)
            job.book.know(contender.name, Facts(title=contender.title, command=command, cores=contender.cores))
            try:
                server.wait_until_ready()
                job.book.add(
                    start.QUESTION.name, case, contender.name, {"ready_s": server.ready_s}, start.QUESTION.told
                )
                sender = ToServer(generator, f"{server.url}/v1", server.model, server)
                target = Target(contender, job.scope, sender, job.book.say, place.nvml_index)
                for burst_case in (burst.FIRST, burst.SECOND):
                    named = replace(burst_case, name=f"{burst_case.name}, {case}")
                    _measured(job, burst.QUESTION, named, target)
            except DiedError as error:
                job.book.fail(start.QUESTION.name, case, contender.name, f"did not start: {error}")
                return
            finally:
                server.stop()
        shutil.rmtree(caches, ignore_errors=True)
