"""The commands `onecard product`, `exercises` and `support`: flags only. What they do is in clients/apps."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from serving.commands.flags import JsonOption, PortOption, UrlOption
from serving.errors import UsageError

LanguageOption = Annotated[Literal["zh", "en"] | None, typer.Option("--language", help="[that of what is given]")]


def product(
    sources: Annotated[list[str], typer.Argument(metavar="PICTURE... | TABLE.csv", help="Pictures of one product.")],
    name: Annotated[str | None, typer.Option(help="What the product is called.")] = None,
    category: Annotated[str | None, typer.Option(help="What kind of thing it is.")] = None,
    length: Annotated[
        int, typer.Option(help="About how many characters; less than four fifths of it is asked for again.")
    ] = 100,
    language: LanguageOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="For a table: where the new table goes, .csv.")
    ] = None,
    as_json: JsonOption = False,
    port: PortOption = 8000,
    url: UrlOption = None,
) -> None:
    """Write copy that sells a product, from its pictures. Selling points, a scenario of use, a call to action.

    A table has the columns name, category and pictures (several in one cell are parted by `;`, and are looked for beside
    the table). The new one has all of its columns, and the copy. Interrupted, the same command goes on where it was.
    """
    from clients.apps.cli import print_product
    from clients.apps.products_table import run_table
    from serving.machine.running import client_errors, server_url
    from serving.outcome import tell_outcome

    server = url or server_url(port)
    table = Path(sources[0]) if len(sources) == 1 and sources[0].lower().endswith(".csv") else None
    if table:
        if out is None or name or category:
            raise UsageError(
                "A table names its products itself, and needs --out: onecard product goods.csv -o copy.csv"
            )
        with client_errors(server):
            done = run_table(table, out, server, language=language, length=length)
        tell_outcome(done, out)
        return
    if not name or not category or out:
        raise UsageError("Name the product: onecard product flask.jpg --name 'Steel flask' --category kitchen")
    with client_errors(server):
        print_product(sources, server, name, category, language, length, as_json)


def exercises(
    pages: Annotated[
        list[str], typer.Argument(metavar="PAGE...", help="Pictures and PDFs; book.pdf#page=3 is one page.")
    ],
    count: Annotated[int, typer.Option(help="How many of each page.")] = 3,
    topic: Annotated[str, typer.Option(help="What they should be about above all.")] = "",
    language: LanguageOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file for all of them: .md or .json.")] = None,
    as_json: JsonOption = False,
    port: PortOption = 8000,
    url: UrlOption = None,
) -> None:
    """Set exercises from the pages of a textbook. With solutions and difficulty, in the language of topic or page.

    Printed page by page as Markdown, or as one JSON object a page. With --out several pages are asked at a time, and the
    same command goes on where it was interrupted.
    """
    from clients.apps.book import run_book
    from clients.apps.cli import print_exercises
    from serving.machine.running import client_errors, server_url
    from serving.outcome import tell_outcome

    server = url or server_url(port)
    if out is None:
        with client_errors(server):
            print_exercises(pages, server, count, topic, language, as_json)
        return
    with client_errors(server):
        done = run_book(pages, out, server, count=count, topic=topic, language=language)
    tell_outcome(done, out)


def support(
    screenshots: Annotated[
        list[str], typer.Argument(metavar="SCREENSHOT... MESSAGE", help="Pictures, and what the customer writes last.")
    ],
    language: LanguageOption = None,
    as_json: JsonOption = False,
    port: PortOption = 8000,
    url: UrlOption = None,
) -> None:
    """Say what a customer's screenshot and message are about. Problem, steps, urgency, whether a person is needed."""
    if len(screenshots) < 2:
        raise UsageError("Name a screenshot and the message: onecard support screen.png 'I cannot log in.'")
    from clients.apps.cli import print_support
    from serving.machine.running import client_errors, server_url

    server = url or server_url(port)
    with client_errors(server):
        print_support(screenshots[:-1], server, screenshots[-1], language, as_json)


# Command → the examples below its help.
COMMANDS: dict[Callable[..., None], str] = {
    product: (
        "\b\nonecard product flask.jpg lid.jpg --name 'Steel flask' --category kitchen\n"
        "onecard product 杯子.jpg --name 保温杯 --category 厨房用品 --length 120\n"
        "onecard product goods.csv --out copy.csv"
    ),
    exercises: (
        "\b\nonecard exercises page.jpg --count 5\n"
        "onecard exercises 'algebra.pdf#page=12' --topic fractions --json\n"
        "onecard exercises algebra.pdf --out exercises.md"
    ),
    support: (
        "\b\nonecard support screen.png 'It says error 5 and will not start.'\n"
        "onecard support 截图.png '登录不上，一直转圈' --json"
    ),
}
