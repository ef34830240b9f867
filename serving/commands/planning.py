"""The commands `onecard plan` and `profiles`: what fits, and what there is. They load nothing."""

from pathlib import Path
from typing import Annotated

import typer

from serving.commands.flags import (
    CardsOption,
    JsonOption,
    MemoryOption,
    ModelOption,
    PortOption,
    ProfileOption,
    VllmArguments,
)
from serving.commands.printing import print_json
from serving.errors import UsageError


def plan(
    context: typer.Context,
    profile: ProfileOption = "auto",
    model: ModelOption = None,
    cards: CardsOption = None,
    gpu_memory_mib: MemoryOption = None,
    as_json: JsonOption = False,
    measured: Annotated[
        bool, typer.Option("--measured", help="The running server's plan, beside what its parts really took.")
    ] = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Every model on every card: what fits, and how well.")
    ] = False,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="A YAML of cards and demand: which model on how many of them.")
    ] = None,
    port: PortOption = 8000,
    vllm_arguments: VllmArguments = None,
) -> None:
    """Say what fits before anything is loaded. Needs no GPU and no download; exit 0 fits, 3 does not."""
    if matrix:
        # ONECARD_CARDS may stand in the environment for `onecard serve`.
        source = context.get_parameter_source("cards")
        named = source is not None and source.name == "COMMANDLINE"
        if profile != "auto" or model or named or gpu_memory_mib or measured or fleet or vllm_arguments:
            raise UsageError("--matrix plans every model on every card as it is: only --json goes with it.")
        from serving import matrix as every

        typer.echo(every.as_json() if as_json else every.as_text())
        return
    if fleet:
        from serving.fleet.command import plan_fleet

        told, meets = plan_fleet(fleet, as_json=as_json)
        typer.echo(told)
        if not meets:
            raise typer.Exit(3)
        return
    if measured:
        from serving.machine.running import fetch_status
        from serving.planning.describe import describe_measured

        current = fetch_status(port)
        if as_json:
            print_json(current)
        else:
            typer.echo(describe_measured(current))
        return
    from serving.beside import counted_as_free
    from serving.machine import hardware
    from serving.planning.describe import describe_plan, describe_steps
    from serving.planning.engine_args import from_argv
    from serving.prepare import prepare

    argv = tuple(vllm_arguments or ())
    found, counted = counted_as_free(hardware.detect())
    prepared = prepare(profile, model, gpu_memory_mib=gpu_memory_mib, user_argv=argv, found=found, cards=cards)
    if as_json:
        typer.echo(prepared.plan.model_dump_json(indent=2))
    else:
        typer.echo(describe_plan(prepared.plan))
        if otherwise := describe_steps(prepared.subject, prepared.plan, from_argv(argv)):
            typer.echo(otherwise)
    if prepared.subject.profile.gpu:
        for sentence in counted:
            typer.echo(sentence, err=as_json)
    if not prepared.plan.fits:
        raise typer.Exit(3)


def profiles(as_json: JsonOption = False) -> None:
    """List the known cards and the models that can be served."""
    from serving.planning.describe import describe_profiles, profiles_json

    typer.echo(profiles_json() if as_json else describe_profiles())
