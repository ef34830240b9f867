"""The READMEs cannot rot: their figures are current, and the commands, routes, exit codes and files they name exist."""

import ast
import importlib.util
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer

from benchmarks import figures, readme
from serving import errors
from serving.cli import app
from serving.demo.questions.conversations import KINDS
from serving.guard.routes import ROUTES
from serving.planning.profile import GpuFacts, Limits, Profile, Video

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README.zh-CN.md")
GUIDES = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z]+)\s*\?=", MAKEFILE, re.MULTILINE))
OPEN_ROUTES = {"/health", "/ready"}


@pytest.fixture(params=READMES)
def text(request: pytest.FixtureRequest) -> str:
    return (ROOT / str(request.param)).read_text("utf-8")


def fenced(text: str, language: str) -> list[str]:
    """The code blocks of that language, without the indentation that they have inside a list."""
    blocks = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{block[1]}", "", block[3], flags=re.MULTILINE) for block in blocks if block[2] == language]


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words of every command in the `bash` blocks; a quoted word may span lines."""
    for block in fenced(text, "bash"):
        lexer = shlex.shlex(block, posix=True, punctuation_chars="\n;&|")
        lexer.whitespace, lexer.whitespace_split = " \t", True
        words: list[str] = []
        for word in [*lexer, "\n"]:
            if set(word) <= set("\n;&|"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def inline_commands(text: str) -> Iterator[list[str]]:
    """The words of commands in running text: `onecard plan --json`, `make test`, `python -m benchmarks.readme`."""
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.match(r"(?:\.venv/bin/)?(?:onecard|make|python) ", span):
            yield shlex.split(span)


def check(words: list[str], *, whole: bool) -> None:
    """Fails where a command cannot be what it says; `whole` ones are parsed as the command line itself would be."""
    program, *arguments = words
    match Path(program).name:
        case "make":
            for argument in arguments:
                name, is_variable, _ = argument.partition("=")
                assert name in (VARIABLES if is_variable else TARGETS), words
        case "onecard" if not arguments[0].startswith("-"):
            command = COMMANDS[arguments[0]]
            if whole:
                command.make_context(arguments[0], arguments[1:])
            else:
                known = {flag for option in command.params for flag in option.opts} | {"--help"}
                # The rest is vLLM's, or the next program's.
                own = itertools.takewhile(lambda word: word not in ("--", "|"), arguments[1:])
                assert {word for word in own if word.startswith("-")} <= known, words
        case "python" if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), words
        case "curl":
            assert urlsplit(arguments[-1]).path in {*ROUTES, *OPEN_ROUTES}, words


def test_shell_commands_are_ones_that_exist(text: str) -> None:
    commands = list(shell_commands(text))
    assert {"make", ".venv/bin/onecard", "curl"} <= {words[0] for words in commands}
    for words in commands:
        check(words, whole=True)


def test_commands_in_running_text_exist(text: str) -> None:
    commands = list(inline_commands(text))
    assert set(COMMANDS) <= {words[1] for words in commands if words[0] == "onecard"}
    for words in commands:
        check(words, whole=False)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_of_the_guides_exist(guide: str) -> None:
    """The runbooks above all: who follows one has no time for a command that is not there."""
    text = (ROOT / guide).read_text("utf-8")
    for words in (*inline_commands(text), *shell_commands(text)):
        if Path(words[0]).name in ("onecard", "make"):
            check(words, whole=False)


@pytest.mark.parametrize(
    "words",
    [["make", "deploy"], ["make", "serve", "CARD=rtx3060"], ["onecard", "serve", "--turbo"], ["curl", "http://x/chat"]],
)
def test_a_command_that_does_not_exist_is_noticed(words: list[str]) -> None:
    with pytest.raises(AssertionError):
        check(words, whole=False)


def test_python_examples_are_python(text: str) -> None:
    blocks = fenced(text, "python")
    assert blocks
    for block in blocks:
        compile(block, "README", "exec")


def test_routes_are_the_guards(text: str) -> None:
    named = re.findall(r"`(GET|POST) (/[\w/]+)`", text)
    assert {path for _, path in named} == {*ROUTES, *OPEN_ROUTES}
    assert all(method in ROUTES.get(path, {"GET"}) for method, path in named)


def test_exit_codes_are_those_of_the_errors(text: str) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.OnecardError)]
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert codes == [0, *sorted(kind.exit_code for kind in kinds), 130, 143]


def test_layout_names_files_that_are_there(text: str) -> None:
    layout = next(block for block in fenced(text, "") if block.startswith("serving/\n"))
    for indent, name in re.findall(r"^( *)(\S+)", layout, re.MULTILINE):
        assert (ROOT / ("serving" if indent else "") / name).exists(), name


def test_a_package_lists_files_that_are_there() -> None:
    for package in (ROOT / "serving").glob("*/__init__.py"):
        listed = re.findall(r"(?<![\w/])\w+\.py\b", ast.get_docstring(ast.parse(package.read_text("utf-8"))) or "")
        assert [name for name in listed if not (package.parent / name).exists()] == [], package


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*READMES, "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/NOTES.md", *GUIDES])
def test_relative_links_lead_somewhere(page: str) -> None:
    document = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            led_to = document.parent / file if file else document
            assert led_to.exists(), target
            assert not anchor or anchor in anchors(led_to.read_text("utf-8")), target


def test_the_readme_leads_to_every_page(text: str) -> None:
    missing = {guide for guide in GUIDES if guide.count("/") == 1 or guide.endswith("README.md")} - set(
        re.findall(r"\]\(([^)#]+)", text)
    )
    assert not missing


def test_the_settings_are_all_in_the_reference_and_exist() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    named = set(re.findall(r"ONECARD_[A-Z_]+", page))
    options = [option for command in COMMANDS.values() for option in command.params]
    assert {str(option.envvar) for option in options if option.envvar} <= named
    sources = [file for folder in ("serving", "clients") for file in (ROOT / folder).rglob("*.py")]
    code = "\n".join(file.read_text("utf-8") for file in sources)
    assert set(re.findall(r"""environ\.get\(\s*"(ONECARD_\w+)""", code)) <= named
    deployed = "\n".join((ROOT / "deploy" / name).read_text("utf-8") for name in ("compose.yaml", "install.sh"))
    assert all(variable in code or variable in deployed for variable in named)
    flags = dict(re.findall(r"^\| `(ONECARD_\w+)` \| `(--[\w-]+)` \|", page, re.MULTILINE))
    assert flags.items() <= {(option.envvar, flag) for option in options for flag in option.opts}
    keys = set(re.findall(r"`(\w+)`", page))
    for model in (Profile, GpuFacts, Limits, Video):
        assert model.model_fields.keys() <= keys, model


def test_both_readmes_have_the_same_figures_and_code_examples() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in READMES)
    assert re.findall(r"figures:(\w+):begin", english) == re.findall(r"figures:(\w+):begin", chinese)
    assert len(fenced(english, "bash")) == len(fenced(chinese, "bash"))
    assert len(fenced(english, "python")) == len(fenced(chinese, "python"))


def test_both_readmes_name_the_same_options_of_each_command() -> None:
    """A row of the table of commands that one language has and the other has not tells half of its readers less."""
    told = [
        {
            row.split("|")[1].strip(): set(re.findall(r"`(--[\w-]+)", row))
            for row in text.splitlines()
            if row[:11] == "| `onecard "
        }
        for text in ((ROOT / name).read_text("utf-8").replace("、", ", ") for name in READMES)
    ]
    assert told[0] == told[1]


def test_figures_are_current() -> None:
    assert readme.main(["--check"]) == 0, "out of date: python -m benchmarks.readme"


def test_a_changed_figure_is_noticed_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "README.md"
    document.write_text((ROOT / "README.md").read_text("utf-8").replace("| 8,192 |", "| 9,999 |"), "utf-8")
    assert readme.main(["--check"], tmp_path) == 1
    assert "README.md" in capsys.readouterr().err
    assert "9,999" in document.read_text("utf-8")
    assert readme.main([], tmp_path) == 0
    assert "| 8,192 |" in document.read_text("utf-8")
    assert readme.main(["--check"], tmp_path) == 0


@pytest.mark.parametrize(
    "text", ["<!-- figures:demo:begin -->\n", "<!-- figures:no:begin -->\n<!-- figures:no:end -->"]
)
def test_markers_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="figures"):
        readme.render(text, "en", ROOT)


def test_demo_table_has_every_kind_and_rounds_down(tmp_path: Path) -> None:
    score = {"en": {"right": 97, "of": 99}, "zh": {"right": 99, "of": 99}}
    result = {
        "date": "2026-11-22",
        "vllm": "0.32.0",
        "command": "python -m somewhere",
        "questions": 2000,
        "right": 1959,
        "accuracy": 0.9795,
        "kinds": dict.fromkeys(KINDS, score),
        "photographs": {"refused": 97, "of": 100},
        "unseen_phrasings": {"right": 3, "of": 4},
        "drawings_refused_wrongly": {"count": 1, "of": 1900},
    }
    assert figures.demo("en", tmp_path) == "Not measured yet."
    (tmp_path / "demo.json").write_text(json.dumps(result), "utf-8")
    english, chinese = figures.demo("en", tmp_path), figures.demo("zh", tmp_path)
    assert "1,959 of 2,000" in english
    assert "97.9%" in english  # 97.95% and 97.98%: neither reads as 98
    assert "98.0%" not in english
    assert english.count("| 97.9% (97/99) | 100.0% (99/99) |") == len(KINDS)
    assert all(figures.KIND_NAMES[kind]["zh"] in chinese for kind in KINDS)
