"""The three applications: what is asked, what is taken for an answer, and what happens to an answer that is none."""

import asyncio
import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from benchmarks.contenders import Contender
from benchmarks.questions import apps
from benchmarks.results import Run
from benchmarks.target import Scope, Target, ToServer
from clients import AsyncClient, Client
from clients.apps import Ticket, exercises, product, support
from clients.apps.book import run_book
from clients.apps.products_table import run_table
from clients.apps.prompts import Language, language_of
from clients.apps.textbook import Exercises, markdown
from clients.apps.tickets import as_text
from clients.errors import AnswerError, InputError
from clients.schema import format_of
from clients.task import Task
from serving.guard.structured import check_structured
from tests import drawing
from tests.conftest import ONECARD
from tests.stand_in.model import model_that_says

ROOT = Path(__file__).parents[2]
PHOTO = drawing.blank(64, 48, "red")
COPY = {
    "selling_points": ["Keeps tea hot for a day", "Closes tightly"],
    "scenario": "Take it on a winter walk and share a cup at the top.",
    "call_to_action": "Order it today!",
}
GOOD = json.dumps(COPY)
SHORT = json.dumps(COPY | {"scenario": "Tea."})
SHEET = json.dumps({"exercises": [{"question": "1 + 1?", "solution": "2", "difficulty": "easy"}]})
TICKET = json.dumps({"problem": "No disk.", "steps": ["Plug it in."], "urgency": "high", "needs_person": False})


def copy() -> Task[Any]:
    return product("Steel flask", "kitchen", PHOTO)


@pytest.mark.parametrize("language", get_args(Language))
@pytest.mark.parametrize(
    "make",
    [
        lambda language: product("N1", "C1", PHOTO, language=language, length=90),
        lambda language: exercises(PHOTO, language=language),
        lambda language: exercises(PHOTO, language=language, topic="T1", count=2),
        lambda language: support(PHOTO, "M1 {x}", language=language),
    ],
)
def test_every_prompt_is_whole_and_in_its_language(make: Any, language: Language) -> None:
    task: Task[Any] = make(language)
    said = [task.system or "", task.question, task.again.format(problem="P1")]
    assert [language_of(text) for text in said] == [language] * 3
    left = re.findall(r"{\w+}", " ".join(said))
    assert [name for name in left if name != "{x}"] == []  # the customer's own braces are the customer's


def test_what_was_given_stands_in_the_question_and_decides_the_language() -> None:
    assert "Steel flask" in copy().question
    assert language_of(product("保温杯", "kitchen", PHOTO).question) == "zh"
    assert "the language of the page" in exercises(PHOTO).question
    assert language_of(exercises(PHOTO, topic="分数").question) == "zh"
    assert "It says {5}" in support(PHOTO, "It says {5}").question


@pytest.mark.parametrize(
    "bad",
    [
        lambda: product("a", "b", PHOTO, length=5),
        lambda: exercises(PHOTO, count=0),
        lambda: exercises(PHOTO, count=11),
        lambda: support(PHOTO, " "),
    ],
)
def test_what_cannot_be_asked_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"can be asked for|is empty"):
        bad()


@pytest.mark.parametrize("task", [copy(), exercises(PHOTO, count=10), support(PHOTO, "Help!")])
def test_a_server_takes_the_schema_and_its_grammar_compiles(task: Task[Any]) -> None:
    import llguidance

    held = format_of(task.into)
    check_structured({"response_format": held})
    grammar = llguidance.LLMatcher.grammar_from_json_schema(held["json_schema"]["schema"])
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("I would say: a flask.", "Invalid JSON"),
        (f"```json\n{GOOD}\n```", "Invalid JSON"),
        ("", "Invalid JSON"),
        (json.dumps(COPY | {"scenario": 3}), "scenario: Input should be a valid string"),
        (json.dumps(COPY | {"price": 3}), "price: Extra inputs"),
        (json.dumps(COPY | {"selling_points": ["one"]}), "selling_points: List should have at least 2 items"),
        (SHORT, "It has only 61 characters; about 100 are wanted, at least 80"),
        ((GOOD[:40], "length"), "cut off"),
    ],
)
def test_a_bad_answer_is_asked_for_again_with_what_was_wrong(bad: str | tuple[str, str], told: str) -> None:
    with model_that_says(bad, GOOD) as model, Client(model.url) as client:
        found = client.do(copy())
        assert found.model_dump() == COPY
        first, second = model.requests
    assert first["response_format"]["json_schema"]["schema"]["properties"].keys() == COPY.keys()
    assert second["response_format"] == first["response_format"]
    *asked, answered, complained = second["messages"]
    assert asked == first["messages"]
    assert answered == {"role": "assistant", "content": bad if isinstance(bad, str) else bad[0]}
    assert told in complained["content"]


def test_an_answer_that_is_never_good_is_an_error_after_three() -> None:
    for bad, why in (("no", "Invalid JSON"), (SHORT, "only 61 characters")):
        with model_that_says(bad) as model, Client(model.url) as client:
            with pytest.raises(AnswerError, match=f"asked 3 times.*{why}"):
                client.do(copy())
            assert len(model.requests) == 3
            assert (
                len(model.requests[-1]["messages"]) == 4
            )  # system, question, the latest answer, what is wrong with it


def test_the_same_with_asyncio() -> None:
    async def ask(url: str) -> Ticket:
        async with AsyncClient(url) as client:
            return await client.do(support(PHOTO, "打不开"))

    with model_that_says("no", TICKET) as model:
        found = asyncio.run(ask(model.url))
        assert "请按原来的要求" in model.last_words
    assert as_text(found).splitlines() == [
        "Problem: No disk.", "Steps:", "  1. Plug it in.", "Urgency: high; no person is needed",
    ]  # fmt: skip


def test_copy_reads_as_a_text_in_both_languages() -> None:
    with model_that_says(GOOD) as model, Client(model.url) as client:
        assert client.do(copy()).text == (
            "Keeps tea hot for a day, Closes tightly. Take it on a winter walk and share a cup at the top. Order it today!"
        )
    chinese = {
        "selling_points": ["保温一整天。", "不漏水"],
        "scenario": "登山时喝口热茶",
        "call_to_action": "马上下单！",
    }
    with model_that_says(json.dumps(chinese)) as model, Client(model.url) as client:
        found = client.do(product("保温杯", "厨房", PHOTO, length=25))
    assert found.text == "保温一整天，不漏水。登山时喝口热茶。马上下单！"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    PHOTO.save(tmp_path / "flask.png")
    (tmp_path / "lid.png").write_bytes(b"no picture")
    table = tmp_path / "goods.csv"
    table.write_text(
        "id,名称,category,pictures,price\na,保温杯,厨房,flask.png;flask.png,3\nb,Lid,kitchen,lid.png,1\n", "utf-8-sig"
    )
    return table


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_table_of_products_keeps_its_columns_and_what_fails_is_asked_again(shop: Path) -> None:
    out = shop.with_name("copy.csv")
    with model_that_says(GOOD) as model:
        done = run_table(shop, out, model.url, language=None, length=50)
        assert (done.total, [name for name, _ in done.failures]) == (2, ["b"])
        pictures = [part for part in model.requests[0]["messages"][-1]["content"] if part["type"] == "image_url"]
        assert len(pictures) == 2
        first, second = rows_of(out)
        assert (first["名称"], first["price"], first["scenario"], first["error"]) == (
            "保温杯",
            "3",
            COPY["scenario"],
            "",
        )
        assert first["selling_points"] == "Keeps tea hot for a day; Closes tightly"
        assert int(first["characters"]) == len(first["text"])
        assert "no picture of a known kind" in second["error"]
        assert out.read_bytes().startswith(b"\xef\xbb\xbf")  # as the table that came in

        PHOTO.save(shop.with_name("lid.png"))
        done = run_table(shop, out, model.url, language=None, length=50)
        assert (done.before, done.failures, len(model.requests)) == (1, [], 2)
        assert [row["error"] for row in rows_of(out)] == ["", ""]
        with pytest.raises(InputError, match="another run"):
            run_table(shop, out, model.url, language="en", length=50)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name,pictures\na,b.png\n", "no column `category`"),
        ("name,category,pictures\na,,b.png\n", "row 1: the column `category` is empty"),
        ("name,category,pictures\n", "no products"),
        ("id,name,category,pictures\n1,a,b,c\n1,a,b,c\n", "each needs its own"),
    ],
)
def test_a_table_that_cannot_be_asked_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=says):
        run_table(tmp_path / "t.csv", tmp_path / "out.csv", "http://127.0.0.1:9", language=None, length=100)


def test_a_book_becomes_markdown_or_json_and_a_bad_page_is_told(tmp_path: Path) -> None:
    page = Image.new("RGB", (200, 280), "white")
    page.save(tmp_path / "book.pdf", save_all=True, append_images=[page])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = [str(tmp_path / "book.pdf"), str(tmp_path / "broken.png")]
    ask: dict[str, Any] = {"count": 1, "topic": "", "language": None}
    with model_that_says(SHEET) as model:
        done = run_book(names, tmp_path / "e.md", model.url, **ask)
        run_book(names, tmp_path / "e.json", model.url, **ask)
        schema = model.requests[0]["response_format"]["json_schema"]["schema"]
    assert (schema["properties"]["exercises"]["minItems"], schema["properties"]["exercises"]["maxItems"]) == (1, 1)
    assert (done.total, len(done.failures)) == (3, 1)
    text = (tmp_path / "e.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["book.pdf, page 1", "book.pdf, page 2", "broken.png"]
    assert "1. **[easy]** 1 + 1?\n\n   **Solution**: 2\n" in text
    assert "No exercises of this page" in text
    told = json.loads((tmp_path / "e.json").read_text())
    assert [each.get("exercises", [{}])[0].get("difficulty") for each in told] == ["easy", "easy", None]
    assert "no picture" in told[2]["error"]


def test_chinese_exercises_have_chinese_headings() -> None:
    found = Exercises.model_validate_json(SHEET.replace("1 + 1?", "一加一？\\n说明理由"))
    assert "1. **[简单]** 一加一？\n   说明理由\n\n   **解答**: 2" in markdown("第1页", found)


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (1, ["product", "a.png", "--name", "Flask", "--category", "kitchen"], "asked 3 times and no answer was usable"),
        (1, ["support", "a.png", "Help!"], "asked 3 times and no answer was usable"),
        (14, ["exercises", "a.png", "--out", "e.md"], "1 could not be answered"),
        (2, ["product", "a.png", "--name", "Flask"], "Name the product: onecard product"),
        (2, ["product", "goods.csv"], "needs --out"),
        (2, ["exercises", "a.png", "--count", "90"], "1 to 10 can be asked for"),
        (2, ["exercises", "a.png", "--out", "e.txt"], "written as .md or .json"),
        (2, ["support", "a.png"], "Name a screenshot and the message"),
    ],
)
def test_a_refusal_on_the_command_line(tmp_path: Path, code: int, arguments: list[str], says: str) -> None:
    PHOTO.save(tmp_path / "a.png")
    with model_that_says("It is red.") as model:
        done = subprocess.run(
            [*ONECARD, *arguments, "--url", model.url], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        )  # fmt: skip
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert done.stdout == ""


def test_the_benchmark_counts_what_was_asked_again_and_what_was_never_usable() -> None:
    sheet = json.dumps({"exercises": [json.loads(SHEET)["exercises"][0]] * 3})
    with model_that_says("no", GOOD, "no", sheet, "no") as model:
        contender = Contender("stand-in", "stand-in", 1)
        target = Target(contender, Scope(), ToServer(None, f"{model.url}/v1", "stand-in"), print)  # type: ignore[arg-type]
        figures = [case.measure(target) for case in apps.QUESTION.cases(target.scope)]
    assert [each["requests"] for each in figures] == [2, 2, 3]
    assert [each["usable"] for each in figures] == [1, 1, 0]
    assert [each["answer_tokens"] for each in figures] == [40, 40, 60]
    assert all(each["seconds"] > 0 for each in figures)


def test_the_documented_seconds_are_those_that_were_measured() -> None:
    run = Run.model_validate_json((ROOT / "benchmarks" / "results" / "apps-cpu-demo.json").read_text("utf-8"))
    text = (ROOT / "docs" / "applications.md").read_text("utf-8")
    assert [row.case for row in run.rows] == list(apps.APPLICATIONS)
    for row in run.rows:
        seconds, requests, tokens = (row.medians[name] for name in ("seconds", "requests", "answer_tokens"))
        assert f"| {row.case} | {seconds:.1f} | {requests:g} | {tokens:g} |" in text
