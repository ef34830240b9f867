"""The commands `onecard ask` and `batch`: flags only. What they do is in clients/."""

from pathlib import Path
from typing import Annotated

import typer

from serving.commands.flags import MaxTokensOption, PortOption, SystemOption, UrlOption
from serving.errors import UsageError


def ask(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE... QUESTION", help="Pictures, and the question last.")],
    port: PortOption = 8000,
    url: UrlOption = None,
    max_tokens: MaxTokensOption = None,
    system: SystemOption = None,
    schema: Annotated[
        str | None, typer.Option(help="A JSON schema that the answer must follow, or a file with one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as one JSON object, with its usage.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the same pictures: a question a line, until Ctrl-D.")
    ] = False,
) -> None:
    """Ask about pictures; the answer streams in.

    A picture is a file, a pattern, a PDF page, a video, a web address, or - for stdin."""
    if len(images) < 2:
        raise UsageError("Name a picture and a question: onecard ask photo.jpg 'What is in the picture?'")
    from clients.cli import Options
    from clients.cli import ask as ask_command
    from serving.machine.running import client_errors, server_url

    server = url or server_url(port)
    with client_errors(server):
        ask_command(images[:-1], images[-1], server, Options(max_tokens, system, schema, as_json, follow))


def batch(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A folder, a .csv or .jsonl, or OpenAI's batch file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the results go: .jsonl or .csv.")],
    prompt: Annotated[str | None, typer.Option("--prompt", help="The question about every picture.")] = None,
    port: PortOption = 8000,
    url: UrlOption = None,
    system: SystemOption = None,
    schema: Annotated[
        str | None, typer.Option(help="A JSON schema that the answers must follow, or a file with one.")
    ] = None,
    max_tokens: MaxTokensOption = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests at a time. [what the server can serve]")
    ] = None,
) -> None:
    """Ask about every picture of a folder or table. Interrupted, the same command goes on where it was."""
    from clients.batch.run import Asked, run_batch
    from serving.machine.running import client_errors, server_url
    from serving.outcome import tell_outcome

    server = url or server_url(port)
    with client_errors(server):
        done = run_batch(source, out, server, Asked(prompt, system, schema, max_tokens, concurrency))
    tell_outcome(done, out)
