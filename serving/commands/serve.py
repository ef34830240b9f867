"""The command `onecard serve`: its flags, and the way from them to a running supervisor."""

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from serving.commands.flags import CardsOption, MemoryOption, ModelOption, PortOption, ProfileOption, VllmArguments
from serving.errors import UsageError

_A_DAY_S = 86_400
_HOST = re.compile(r"[^/:*,\s]+")
# `file://` is that of programs with a window of their own, `null` that of pages without one.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/*,\s]*/?|null")


def serve(
    profile: ProfileOption = "auto",
    model: ModelOption = None,
    port: PortOption = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on; others than loopback need a key, in ONECARD_API_KEY or --api-keys-file."
        ),
    ] = "127.0.0.1",
    models: Annotated[
        str | None, typer.Option(help="Models that requests may name, with commas; one is loaded at a time.")
    ] = None,
    cards: CardsOption = None,
    gpu_memory_mib: MemoryOption = None,
    allow_image_urls: Annotated[
        bool,
        typer.Option(
            "--allow-image-urls",
            envvar="ONECARD_ALLOW_IMAGE_URLS",
            help="Fetch http(s) pictures that requests name. Off by default.",
        ),
    ] = False,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ONECARD_API_KEYS_FILE", help="A file with a `name:key` a line, and quotas (docs/settings.md)."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(envvar="ONECARD_ALLOW_HOST", help="A name that requests may give in `Host`; may be repeated."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(envvar="ONECARD_ALLOW_ORIGIN", help="An origin whose web pages may use the API; may be repeated."),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            min=0, max=_A_DAY_S, envvar="ONECARD_DRAIN_SECONDS", help="What running answers get to finish at the end."
        ),
    ] = 30.0,
    hang_seconds: Annotated[
        float,
        typer.Option(
            min=5,
            max=_A_DAY_S,
            envvar="ONECARD_HANG_SECONDS",
            help="An engine that is stuck for this long is restarted.",
        ),
    ] = 90.0,
    idle_unload: Annotated[
        str | None,
        typer.Option(envvar="ONECARD_IDLE_UNLOAD", help="Give the memory back after so long without requests, as 10m."),
    ] = None,
    wake_deadline: Annotated[
        str,
        typer.Option(envvar="ONECARD_WAKE_DEADLINE", help="The longest that a request waits for a model to be loaded."),
    ] = "5m",
    min_stay: Annotated[
        str, typer.Option(envvar="ONECARD_MIN_STAY", help="What a model is served before another takes its place.")
    ] = "60s",
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Start although requests or the model could run code.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and vLLM's arguments, start nothing.")
    ] = False,
    vllm_arguments: VllmArguments = None,
) -> None:
    """Plan, print the plan, start vLLM and keep it running."""
    import asyncio
    from functools import partial

    from serving import durations
    from serving.ipc.settings import GuardSettings
    from serving.machine.port import open_socket
    from serving.planning.describe import describe_memory, describe_plan
    from serving.planning.engine_args import to_argv
    from serving.prepare import ServerOptions
    from serving.several import check_each, make_launches, plan_each_again, prepare_each

    if (written := os.environ.get("ONECARD_LOG_FORMAT") or "text") not in ("json", "text"):
        raise UsageError(f"ONECARD_LOG_FORMAT is {written!r}, and request lines are written as `json` or as `text`.")
    guard = GuardSettings(
        allowed_hosts=_names("--allow-host", allow_host, _HOST, "onecard.example.com"),
        allowed_origins=_names("--allow-origin", allow_origin, _ORIGIN, "https://chat.example.com"),
        drain_s=drain_seconds,
        hang_timeout_s=hang_seconds,
        idle_unload_s=durations.seconds(idle_unload) if idle_unload else None,
        wake_deadline_s=durations.seconds(wake_deadline),
        min_stay_s=durations.seconds(min_stay),
        unsafe=unsafe,
    )
    argv = tuple(vllm_arguments or ())
    prepared = prepare_each(profile, model, models, gpu_memory_mib=gpu_memory_mib, user_argv=argv, cards=cards)
    for each in prepared:
        # Why one does not fit is the refusal's to say.
        typer.echo(describe_plan(each.plan) if each.plan.fits else describe_memory(each.plan), err=not dry_run)
        if dry_run and each.plan.fits:
            place = str(each.resolved.folder or each.resolved.model.source.hub)
            typer.echo(shlex.join(["vllm", "serve", place, *to_argv(each.plan.engine_args)]))
    if unused := ", ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in prepared[0].cards.unused):
        typer.echo(f"Not used, since unlike the first: {unused}.", err=not dry_run)
    if dry_run:
        check_each(prepared)
        return
    from serving.advisories import open_here

    if known := ", ".join(each.name for each in open_here()):
        typer.echo(
            f"Warning: what is installed here is open to {known}. `onecard doctor` says how to mend it.", err=True
        )
    launches = make_launches(prepared, ServerOptions(host, port, allow_image_urls, api_keys_file, guard))
    listening = open_socket(host, port)
    from serving.supervisor.supervisor import Supervisor

    again = partial(plan_each_again, prepared)
    asyncio.run(Supervisor(launches[0], listening, replan=again, others=tuple(launches[1:])).run())


def _names(flag: str, given: list[str] | None, shape: re.Pattern[str], example: str) -> tuple[str, ...]:
    """In lower case. Raises UsageError for one that no request would ever match."""
    from serving.guard.origin import is_address

    names = [name.lower() for name in given or ()]
    if wrong := [name for name in names if not shape.fullmatch(name)]:
        if shape is _HOST and is_address(wrong[0].strip("[]")):
            raise UsageError(
                f"{flag} is for names. {wrong[0]} is an address, and requests to addresses are answered anyway."
            )
        raise UsageError(
            f"{flag} takes what stands in a request, as {example}, and {wrong[0]!r} never does. Several are given with the "
            "flag before each, or in its variable with blanks between them."
        )
    return tuple(name.rstrip("/") for name in names)
