"""The verdict on a checkpoint: its statistics against their definitions, its gate, and what may be asked."""

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.errors import OnecardError, UsageError
from serving.evaluate.asking import Answer, ask_all, read_journal
from serving.evaluate.command import Suite, evaluate, journal_of
from serving.evaluate.compare import compare
from serving.evaluate.questions import demo_questions, file_questions
from serving.evaluate.statistics import Z_95, bootstrap_interval, kl_divergence, mcnemar, score_interval
from tests.listening import listening


def answers(rights: str, text: str = "red") -> dict[str, Answer]:
    """One answer a letter: "1" is right."""
    return {str(index): Answer(str(index), f"{text}{right}", right == "1", []) for index, right in enumerate(rights)}


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 1, 1.0), (12, 2, 212 / 2**14)])
def test_mcnemar_counts_the_ways_that_coins_could_fall(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == mcnemar(won, lost) == pytest.approx(p)


@pytest.mark.parametrize(("lost", "won", "n"), [(14, 3, 50), (40, 20, 4000), (0, 0, 100), (3, 0, 200), (1, 30, 300)])
def test_the_score_interval_ends_where_the_score_test_just_rejects(lost: int, won: int, n: int) -> None:
    """The score with its likelihood maximized by search, as Tango defines it, and not by his formula."""
    for bound, wanted in zip(score_interval(lost, won, n), (Z_95, -Z_95), strict=True):

        def likelihood(q: float, delta: float = bound) -> float:
            terms = ((lost, q + delta), (won, q), (n - lost - won, 1 - 2 * q - delta))
            if any(p < 0 or (count and p <= 0) for count, p in terms):
                return -math.inf
            return sum(count * math.log(p) for count, p in terms if count)

        low, high = max(0.0, -bound), (1 - bound) / 2
        q = max((low + (high - low) * step / 20_000 for step in range(20_001)), key=likelihood)
        score = (lost - won - n * bound) / math.sqrt(n * (2 * q + bound * (1 - bound)))
        assert score == pytest.approx(wanted, abs=0.02)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(80, 5000))
def test_the_intervals_hold_what_was_measured(lost: int, won: int, n: int) -> None:
    loss = (lost - won) / n
    for low, high in (score_interval(lost, won, n), bootstrap_interval(lost, won, n, rounds=300)):
        assert -1 <= low <= loss <= high <= 1


def test_the_bootstrap_agrees_with_the_normal_approximation_where_that_holds() -> None:
    low, high = bootstrap_interval(300, 200, 4000)
    spread = 1.96 * math.sqrt((500 / 4000 - (100 / 4000) ** 2) / 4000)
    assert (low, high) == pytest.approx((0.025 - spread, 0.025 + spread), abs=0.001)


def test_nothing_lost_in_few_questions_proves_little() -> None:
    few, many = compare(answers("1" * 50), answers("1" * 50)), compare(answers("1" * 4000), answers("1" * 4000))
    assert not few.within(0.5)
    assert many.within(0.5)


def test_a_loss_above_the_gate_is_seen() -> None:
    found = compare(answers("0" * 100 + "1" * 3900), answers("1" * 4000))
    assert (found.lost, found.won, found.questions) == (100, 0, 4000)
    assert found.loss == pytest.approx(0.025)
    assert not found.within(1.5)
    assert "-" not in found.as_text().splitlines()[1]  # a loss is a positive number


def test_one_that_answers_better_is_within_the_gate() -> None:
    found = compare(answers("1" * 4000), answers("0" * 100 + "1" * 3900))
    assert found.loss < 0
    assert found.within(0.5)


def test_answers_to_different_questions_are_not_compared() -> None:
    with pytest.raises(UsageError, match="no question in common"):
        compare({"a": Answer("a", "", True, [])}, {"b": Answer("b", "", True, [])})


def test_the_drift_is_the_divergence_up_to_where_the_texts_part() -> None:
    near = {"red": math.log(0.9), "blue": math.log(0.1)}
    far = {"red": math.log(0.5), "blue": math.log(0.5)}
    old = {"q": Answer("q", "red", True, [("red", near), ("circle", near), ("x", near)])}
    same = {"q": Answer("q", "red", True, [("red", near), ("square", far), ("y", far)])}
    found = compare(same, old)
    assert found.kl_tokens == 2
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert found.kl == pytest.approx(expected / 2, abs=1e-6)


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=8), st.data())
def test_divergence_of_what_is_named_is_a_lower_bound_of_the_whole(weights: list[float], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.floats(0.01, 1), min_size=len(weights), max_size=len(weights)))
    p, q = ([each / sum(values) for each in values] for values in (weights, others))
    whole = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    named = [{str(i): math.log(each) for i, each in enumerate(values[:-1])} for values in (p, q)]
    assert 0 <= kl_divergence(*named) <= whole + 1e-9
    assert kl_divergence(named[0], named[0]) == pytest.approx(0, abs=1e-9)


def test_a_cut_off_journal_is_asked_again_from_there(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    line = json.dumps({"key": "demo-0", "text": "Red.", "right": True, "tokens": [["Red", {"Red": -0.1}]]})
    file.write_text(f"{line}\n{line[:30]}", encoding="utf-8")
    assert list(read_journal(file)) == ["demo-0"]
    file.write_bytes(f"{line}\n".encode() + line.replace("Red", "红色").encode()[:29])  # within a character
    assert list(read_journal(file)) == ["demo-0"]
    assert read_journal(tmp_path / "none.jsonl") == {}


class Served:
    """A server that answers "red" to whoever has the key; how often it was asked is in `asked`."""

    def __init__(self, key: str) -> None:
        self.asked = 0
        self._key = key
        routes = [Route("/v1/models", self._models), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        self.app = Starlette(routes=routes)

    def _refusal(self, request: Request) -> Response | None:
        if request.headers["authorization"] == f"Bearer {self._key}":
            return None
        return JSONResponse({"error": {"message": "This server needs an API key."}}, 401)

    async def _models(self, request: Request) -> Response:
        listed = [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]
        return self._refusal(request) or JSONResponse({"object": "list", "data": listed})

    async def _chat(self, request: Request) -> Response:
        self.asked += 1
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "red"}}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return self._refusal(request) or JSONResponse(reply)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}?", "answer": "red"}) + "\n" for n in range(9)), "utf-8")
    return Suite(file, 4)


def test_running_servers_are_asked_with_the_key_of_the_environment(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECARD_STATE_DIR", str(tmp_path / "state"))
    server = Served("a-long-random-word")
    with listening(server.app) as port:
        url = f"http://127.0.0.1:{port}"
        monkeypatch.delenv("ONECARD_API_KEY", raising=False)
        with pytest.raises(OnecardError, match=f"{url}/v1 needs a key: set ONECARD_API_KEY"):
            evaluate(url, f"{url}/v1", suite, "cpu")
        assert server.asked == 0
        monkeypatch.setenv("ONECARD_API_KEY", "a-long-random-word")
        found = evaluate(url, f"{url}/v1", suite, "cpu")
    assert (found.questions, found.right, found.right_reference, server.asked) == (4, 4, 4, 8)
    assert not (tmp_path / "state").exists()  # nothing is kept: another model may answer there the next time


def test_of_more_answers_than_are_wanted_those_to_the_questions_count(suite: Suite, tmp_path: Path) -> None:
    """The journal of a longer run, in which a kill has cut off the line of an early question."""
    journal, server = tmp_path / "journal.jsonl", Served("none")
    lines = [json.dumps({"key": f"mine-{n}", "text": "red", "right": True, "tokens": []}) for n in (1, 3, 4, 5, 6)]
    journal.write_text("\n".join([*lines, lines[0][:20]]), encoding="utf-8")
    questions, count = suite.questions()
    with listening(server.app) as port:
        answers = ask_all(f"http://127.0.0.1:{port}", questions, count, journal, "asked")
    assert (answers.keys(), server.asked) == ({f"mine-{n}" for n in (1, 2, 3, 4)}, 1)
    assert read_journal(journal).keys() == {f"mine-{n}" for n in (1, 2, 3, 4, 5, 6)}


def test_a_question_whose_picture_changed_is_asked_anew_and_no_other(tmp_path: Path) -> None:
    file, journal, server = tmp_path / "mine.jsonl", tmp_path / "journal.jsonl", Served("none")
    rows = [{"images": [f"{n}.png", "both.png"], "question": "?", "answer": "red"} for n in range(3)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in ("0", "1", "2", "both"):
        (tmp_path / f"{name}.png").write_bytes(b"picture")

    def asked() -> int:
        before, (questions, count) = server.asked, Suite(file, 9).questions()
        with listening(server.app) as port:
            assert len(ask_all(f"http://127.0.0.1:{port}", questions, count, journal, "asked")) == 3
        return server.asked - before

    assert (asked(), asked()) == (3, 0)
    (tmp_path / "1.png").write_bytes(b"another")
    assert (asked(), asked()) == (1, 0)


def test_a_checkpoint_that_changed_is_asked_anew(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = journal_of(str(tmp_path), Suite(None, 10))
    assert journal_of(str(tmp_path), Suite(None, 99)) == before  # more questions of the same suite go on with it
    (tmp_path / "model.safetensors").write_bytes(b"22")
    assert journal_of(str(tmp_path), Suite(None, 10)) != before


def test_the_demo_suite_judges_by_facts() -> None:
    for question in itertools.islice(demo_questions(3), 3):
        assert question.messages()[-1]["role"] == "user"
        assert not question.right("I do not know.")


def test_a_file_of_questions_is_asked_with_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    rows = [
        {"image": "a.png", "question": "Which colour?", "answer": ["Red", "crimson"]},
        {"question": "And 2 + 2?", "answer": 4},
    ]
    file = tmp_path / "mine.jsonl"
    # As Excel saves a file, and with the line separator that texts of the web have: of JSON's lines it separates none.
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    file.write_text(text.replace("And ", "And\u2028"), encoding="utf-8-sig")
    first, second = file_questions(file)
    assert first.messages()[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert first.right(" red. ")
    assert first.right("Crimson")
    assert not first.right("red and blue")
    assert second.right("4")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1"),
        ('{"question": "?"}', "answer"),
        ('{"image": "gone.png", "question": "?", "answer": "a"}', "gone.png"),
        ("", "no questions"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        file_questions(file)
    with pytest.raises(UsageError, match="JSONL"):
        file_questions(tmp_path / "missing.jsonl")
