"""The commands `onecard pull`, `doctor`, `report` and `upgrade`: what this machine has, and what it is given."""

from pathlib import Path
from typing import Annotated

import typer

from serving.commands.flags import JsonOption, PortOption, ProfileOption, VllmArguments
from serving.commands.printing import print_json
from serving.errors import UsageError


def pull(
    model: Annotated[str, typer.Argument(help="A Hub id, or a name that `onecard profiles` lists.")],
    warm: Annotated[
        bool, typer.Option("--warm", help="Start it once, so that the next start finds everything compiled.")
    ] = False,
    profile: ProfileOption = "auto",
    vllm_arguments: VllmArguments = None,
) -> None:
    """Download a model ahead of time. Every file is checked; it goes on where it was interrupted. Prints the folder.

    The EAGLE3 head that `-- --speculative-config` asks for is downloaded too, and its folder printed after the model's."""
    from serving.hub import resolve_model
    from serving.hub.head import resolve_head
    from serving.planning.asked import read_asked
    from serving.planning.engine_args import from_argv

    resolved, argv = resolve_model(model), tuple(vllm_arguments or ())
    head = resolve_head(read_asked(from_argv(argv)).speculation, resolved.model)
    folders = [resolved.download(), *([head.download()] if head else [])]
    if warm:
        from serving.prewarm import warm_caches

        warm_caches(profile, model, argv)
    for folder in folders:
        typer.echo(folder)


def doctor(
    profile: ProfileOption = "auto",
    port: PortOption = 8000,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has, lacks, and how to mend it. Exit 0 when nothing is broken."""
    from serving.doctor import as_text, checks_json, run_checks

    checks = run_checks(profile, port)
    typer.echo(checks_json(checks) if as_json else as_text(checks))
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)


def report(
    profile: ProfileOption = "auto",
    port: PortOption = 8000,
) -> None:
    """Print one JSON object about server and machine, to share. No path, address or key is in it."""
    from serving.report import make_report

    print_json(make_report(profile, port))


def upgrade(
    to: Annotated[
        str | None, typer.Option("--to", help="A version of the package index, or a wheel, a bundle, a source folder.")
    ] = None,
    roll_back: Annotated[bool, typer.Option("--roll-back", help="Go back to the version before.")] = False,
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="The card. [the service's, else auto]")] = None,
    prefix: Annotated[Path | None, typer.Option("--prefix", help="The installation. [the one of this command]")] = None,
) -> None:
    """Switch to another version, or back. It is installed beside the one in use and asked a question before the switch."""
    from serving.upgrade import command

    if (to is not None) == roll_back:
        raise UsageError("Name what to upgrade to (--to 0.2.0, a wheel, a bundle, a source folder), or --roll-back.")
    place = prefix.absolute() if prefix else command.find_prefix()
    if to is None:
        command.roll_back(place)
    else:
        command.upgrade(place, to, profile)
