"""`onecard evaluate` from its words to a verdict: each checkpoint is served in turn and asked the same questions."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.evaluate.asking import Answer, ask_all, read_journal
from serving.evaluate.compare import Comparison, compare
from serving.evaluate.questions import Question, demo_questions, file_questions
from serving.evaluate.serving import is_url, served
from serving.machine.state_dir import state_dir


@dataclass(frozen=True)
class Suite:
    """What is asked. `file` is None for the demo model's held-out questions, of which there are `count`."""

    file: Path | None
    count: int

    @property
    def name(self) -> str:
        return str(self.file) if self.file else f"the demo suite, {self.count:,} held-out questions"

    def questions(self) -> tuple[Iterable[Question], int]:
        if self.file is None:
            return demo_questions(self.count), self.count
        found = file_questions(self.file)[: self.count]
        return found, len(found)

    def digest(self) -> str:
        """Changes when the questions do. Not with their number: the first of a longer run are those of a shorter one."""
        content = self.file.read_bytes() if self.file and self.file.is_file() else b"demo"
        return hashlib.sha256(content).hexdigest()[:12]


def evaluate(candidate: str, reference: str, suite: Suite, profile: str) -> Comparison:
    """Asks both, the reference first. A model is a folder, a name, a Hub id, or the URL of a running server; the answers of
    a folder are kept, so that an interrupted evaluation goes on, and a reference is asked once for many candidates."""
    before = answers_of(reference, suite, profile, "reference")
    return compare(answers_of(candidate, suite, profile, "candidate"), before)


def answers_of(model: str, suite: Suite, profile: str, title: str) -> dict[str, Answer]:
    """All answers, those of an earlier run with them; `title` is what its progress is told under."""
    questions, count = suite.questions()
    if is_url(model):  # another model may answer there the next time
        return ask_all(model, questions, count, None, title)
    journal = journal_of(model, suite)
    known = read_journal(journal)
    if suite.file is None and all(f"demo-{index}" in known for index in range(count)):
        return {key: answer for key, answer in known.items() if int(key.removeprefix("demo-")) < count}
    with served(model, profile) as url:
        return ask_all(url, questions, count, journal, title)


def journal_of(model: str, suite: Suite) -> Path:
    """The file with a model's answers: another one when its weights or the questions change."""
    folder = Path(model)
    facts = [model]
    if folder.is_dir():
        facts = [str(folder.resolve())]
        for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("config.json")):
            facts.append(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}")
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    return state_dir() / "evaluate" / f"{name}-{suite.digest()}.jsonl"
