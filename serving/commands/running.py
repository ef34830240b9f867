"""The commands for a server that runs: `onecard status`, `stop`, `sleep`, `wake`, `logs` and `exporter`."""

import sys
from typing import Annotated

import typer

from serving.commands.flags import PortOption
from serving.commands.printing import print_json


def status(
    port: PortOption = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="The server's own JSON.")] = False,
) -> None:
    """Show what the running server does. Exit 0 when it is ready."""
    from serving.machine.running import describe_status, fetch_status

    current = fetch_status(port)
    if as_json:
        print_json(current)
    else:
        typer.echo(describe_status(current))
    if current["state"] != "ready":
        raise typer.Exit(1)


def stop(port: PortOption = 8000) -> None:
    """Stop the running server and wait until it is gone."""
    from serving.machine.running import stop_server

    typer.echo(f"Stopped in {stop_server(port):.1f} s.")


def sleep(port: PortOption = 8000) -> None:
    """Give the GPU's memory back until the next request. Running answers are finished first."""
    from serving.machine.orders import send_to_sleep

    typer.echo(send_to_sleep(port))


def wake(
    port: PortOption = 8000,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is ready.")] = False,
) -> None:
    """Load the model again now, without a request. Exit 0 when it is ready."""
    from serving.machine.orders import wake_up

    typer.echo(wake_up(port, wait=not no_wait))


def logs(
    port: PortOption = 8000,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until Ctrl-C.")] = False,
    card: Annotated[int, typer.Option(min=0, help="Of several cards, the one whose server's log is meant.")] = 0,
) -> None:
    """Show the server's log."""
    from serving.machine.running import log_lines

    for line in log_lines(port, lines, follow=follow, card=card):
        sys.stdout.write(line)
        sys.stdout.flush()


def exporter(
    port: PortOption = 8000,
    host: Annotated[
        str, typer.Option(envvar="ONECARD_EXPORTER_HOST", help="The address to listen on; it asks for no key.")
    ] = "127.0.0.1",
    listen_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="ONECARD_EXPORTER_PORT", help="The exporter's own port.")
    ] = 8001,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve metrics of GPU, server and plan for Prometheus. `onecard serve` starts one by itself."""
    from serving.exporter.exporter import run_exporter
    from serving.plugin import die_with_parent

    if parent is not None:
        die_with_parent(parent)
    run_exporter(port, host, listen_port)
