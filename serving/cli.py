"""The program `onecard`: its commands in the order of `--help` (each is in serving/commands/), and how it reports a refusal."""

import io
import signal
import sys
from typing import Annotated, NoReturn

import typer

from serving.commands import applications
from serving.commands.ask import ask, batch
from serving.commands.machine import doctor, pull, report, upgrade
from serving.commands.planning import plan, profiles
from serving.commands.quantize import evaluate, quantize, requantize_head
from serving.commands.running import exporter, logs, sleep, status, stop, wake
from serving.commands.serve import serve
from serving.errors import DiskFullError, OnecardError

app = typer.Typer(
    name="onecard",
    help="Serve a vision-language model on one consumer GPU: vLLM inside, OpenAI-compatible outside.",
    epilog="First steps: `onecard serve`, then `onecard ask photo.jpg 'What is in the picture?'` in another terminal.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog="What follows `--` goes to vLLM: onecard serve -p rtx3060 -- --max-model-len 16384")(serve)
app.command()(plan)
app.command()(pull)
app.command()(profiles)
app.command()(doctor)
app.command()(report)
app.command()(status)
app.command()(stop)
app.command()(sleep)
app.command()(wake)
app.command()(logs)
app.command()(exporter)
app.command()(ask)
app.command()(batch)
for _command, _examples in applications.COMMANDS.items():
    app.command(epilog=_examples)(_command)
app.command()(quantize)
app.command()(requantize_head)
app.command()(evaluate)
app.command()(upgrade)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from serving import __version__

        typer.echo(__version__)
        raise typer.Exit


def _ended(number: int, _frame: object) -> NoReturn:
    """Unwinds as Ctrl-C does, so that what is open is closed (`evaluate` runs a server). `serve` and the exporter have handlers
    of their own."""
    raise SystemExit(128 + number)


def main() -> None:
    """Runs the command. A refusal is one paragraph on stderr and an exit code of its own, never a traceback."""
    signal.signal(signal.SIGTERM, _ended)
    # Characters that the terminal's encoding lacks, or a file's name that is not UTF-8, are escaped as in JSON.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except OnecardError as error:
        typer.echo(f"onecard: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DiskFullError.numbers:
            raise
        typer.echo(f"onecard: What it writes to is full: {error.strerror}. Free some, and run it again.", err=True)
        sys.exit(DiskFullError.exit_code)
    except KeyboardInterrupt:
        typer.echo("", err=True)
        sys.exit(130)
