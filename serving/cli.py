"""The command `onecard`. Each command imports what it needs when it runs, so that `--help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from serving import applications
from serving.errors import OnecardError, UsageError
from serving.flags import (
    JsonOption,
    MaxTokensOption,
    MemoryOption,
    ModelOption,
    PortOption,
    ProfileOption,
    SystemOption,
    UrlOption,
    VllmArguments,
)
from serving.quantize.cli import evaluate, quantize, requantize_head

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


@app.command(epilog="What follows `--` goes to vLLM: onecard serve -p rtx3060 -- --max-model-len 16384")
def serve(
    profile: ProfileOption = "auto",
    model: ModelOption = None,
    port: PortOption = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than loopback need an API key.")
    ] = "127.0.0.1",
    models: Annotated[
        str | None, typer.Option(help="Models that requests may name, with commas; one is loaded at a time.")
    ] = None,
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
        Path | None, typer.Option(envvar="ONECARD_API_KEYS_FILE", help="A file with a `name:key` a line.")
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
        typer.Option(min=0, envvar="ONECARD_DRAIN_SECONDS", help="What running answers get to finish at the end."),
    ] = 30.0,
    hang_seconds: Annotated[
        float,
        typer.Option(min=5, envvar="ONECARD_HANG_SECONDS", help="An engine that is stuck for this long is restarted."),
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
    from serving.describe import describe_plan
    from serving.engine_args import to_argv
    from serving.prepare import open_socket
    from serving.several import make_launches, plan_each_again, prepare_each

    argv = tuple(vllm_arguments or ())
    prepared = prepare_each(profile, model, models, gpu_memory_mib=gpu_memory_mib, user_argv=argv)
    for each in prepared:
        typer.echo(describe_plan(each.plan), err=not dry_run)
        if dry_run:
            typer.echo("vllm serve " + " ".join(to_argv(each.plan.engine_args)))
    if dry_run:
        return
    from serving.advisories import open_here
    from serving.guard.settings import GuardSettings

    if known := ", ".join(each.name for each in open_here()):
        typer.echo(
            f"Warning: what is installed here is open to {known}. `onecard doctor` says how to mend it.", err=True
        )
    guard = GuardSettings(
        allowed_hosts=tuple(name.lower() for name in allow_host or ()),
        allowed_origins=tuple(origin.lower().rstrip("/") for origin in allow_origin or ()),
        drain_s=drain_seconds,
        hang_timeout_s=hang_seconds,
        idle_unload_s=durations.seconds(idle_unload) if idle_unload else None,
        wake_deadline_s=durations.seconds(wake_deadline),
        min_stay_s=durations.seconds(min_stay),
        unsafe=unsafe,
    )
    launches = make_launches(
        prepared,
        host=host,
        port=port,
        allow_image_urls=allow_image_urls,
        api_keys_file=api_keys_file,
        guard=guard,
    )
    listening = open_socket(host, port)
    from serving.supervisor import Supervisor

    again = partial(plan_each_again, prepared)
    asyncio.run(Supervisor(launches[0], listening, replan=again, others=tuple(launches[1:])).run())


@app.command()
def plan(
    profile: ProfileOption = "auto",
    model: ModelOption = None,
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
        from serving.describe import describe_measured
        from serving.running import fetch_status

        current = fetch_status(port)
        typer.echo(_json(current) if as_json else describe_measured(current))
        return
    from serving.describe import describe_plan, describe_steps
    from serving.engine_args import from_argv
    from serving.prepare import prepare

    argv = tuple(vllm_arguments or ())
    prepared = prepare(profile, model, gpu_memory_mib=gpu_memory_mib, user_argv=argv)
    if as_json:
        typer.echo(prepared.plan.model_dump_json(indent=2))
    else:
        typer.echo(describe_plan(prepared.plan))
        if otherwise := describe_steps(prepared.subject, prepared.plan, from_argv(argv)):
            typer.echo(otherwise)
    if not prepared.plan.fits:
        raise typer.Exit(3)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="A Hub id, or a name that `onecard profiles` lists.")],
    warm: Annotated[
        bool, typer.Option("--warm", help="Start it once, so that the next start finds everything compiled.")
    ] = False,
    profile: ProfileOption = "auto",
    vllm_arguments: VllmArguments = None,
) -> None:
    """Download a model ahead of time, every file checked; goes on where it was interrupted. Prints the folder."""
    from serving.hub import resolve_model

    folder = resolve_model(model).download()
    if warm:
        from serving.prewarm import warm_caches

        warm_caches(profile, model, tuple(vllm_arguments or ()))
    typer.echo(folder)


@app.command()
def profiles(as_json: JsonOption = False) -> None:
    """List the cards that are known, and the models that can be served."""
    from serving.describe import describe_profiles, profiles_json

    typer.echo(profiles_json() if as_json else describe_profiles())


@app.command()
def doctor(
    profile: ProfileOption = "auto",
    port: PortOption = 8000,
    as_json: JsonOption = False,
) -> None:
    """Check what this machine has and lacks, and how to mend it. Exit 0 when nothing is broken."""
    from serving.doctor import as_text, checks_json, run_checks

    checks = run_checks(profile, port)
    typer.echo(checks_json(checks) if as_json else as_text(checks))
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)


@app.command()
def status(
    port: PortOption = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="The server's own JSON.")] = False,
) -> None:
    """Show what the running server does. Exit 0 when it is ready."""
    from serving.running import describe_status, fetch_status

    current = fetch_status(port)
    if as_json:
        typer.echo(_json(current))
    else:
        typer.echo(describe_status(current))
    if current["state"] != "ready":
        raise typer.Exit(1)


@app.command()
def stop(port: PortOption = 8000) -> None:
    """Stop the running server and wait until it is gone."""
    from serving.running import stop_server

    typer.echo(f"Stopped in {stop_server(port):.1f} s.")


@app.command()
def sleep(port: PortOption = 8000) -> None:
    """Give the GPU's memory back once running answers are done; the next request takes it again."""
    from serving.orders import send_to_sleep

    typer.echo(send_to_sleep(port))


@app.command()
def wake(
    port: PortOption = 8000,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is ready.")] = False,
) -> None:
    """Load the model again without waiting for a request. Exit 0 when it is ready."""
    from serving.orders import wake_up

    typer.echo(wake_up(port, wait=not no_wait))


@app.command()
def logs(
    port: PortOption = 8000,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until Ctrl-C.")] = False,
) -> None:
    """Show the server's log."""
    from serving.running import log_lines

    for line in log_lines(port, lines, follow=follow):
        sys.stdout.write(line)
        sys.stdout.flush()


@app.command()
def exporter(
    port: PortOption = 8000,
    host: Annotated[
        str, typer.Option(envvar="ONECARD_EXPORTER_HOST", help="The address to listen on; it asks for no key.")
    ] = "127.0.0.1",
    listen_port: Annotated[
        int, typer.Option(min=1, max=65535, envvar="ONECARD_EXPORTER_PORT", help="The exporter's own port.")
    ] = 8001,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Serve metrics of GPU, server and plan for Prometheus; `onecard serve` starts one by itself."""
    from serving.exporter import run_exporter
    from serving.plugin import die_with_parent

    if child:
        die_with_parent()
    run_exporter(port, host, listen_port)


@app.command()
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
    """Ask about pictures (files, patterns, PDF pages, videos, web addresses, - for stdin); the answer streams in."""
    if len(images) < 2:
        raise UsageError("Name a picture and a question: onecard ask photo.jpg 'What is in the picture?'")
    from clients.cli import Options
    from clients.cli import ask as ask_command
    from serving.running import client_errors

    server = url or f"http://127.0.0.1:{port}"
    with client_errors(server):
        ask_command(images[:-1], images[-1], server, Options(max_tokens, system, schema, as_json, follow))


@app.command()
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
    from serving.outcome import tell_outcome
    from serving.running import client_errors

    server = url or f"http://127.0.0.1:{port}"
    with client_errors(server):
        done = run_batch(source, out, server, Asked(prompt, system, schema, max_tokens, concurrency))
    tell_outcome(done, out)


for _command, _examples in applications.COMMANDS.items():
    app.command(epilog=_examples)(_command)


app.command()(quantize)
app.command("requantize-head")(requantize_head)
app.command()(evaluate)


@app.command()
def upgrade(
    to: Annotated[
        str | None, typer.Option("--to", help="A version of the package index, or a wheel, a bundle, a source folder.")
    ] = None,
    roll_back: Annotated[bool, typer.Option("--roll-back", help="Go back to the version before.")] = False,
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="The card. [the service's, else auto]")] = None,
    prefix: Annotated[Path | None, typer.Option("--prefix", help="The installation. [the one of this command]")] = None,
) -> None:
    """Install a version beside the one in use, ask it a question whose answer is known, and switch; or go back."""
    from serving.upgrade import command

    if (to is not None) == roll_back:
        raise UsageError("Name what to upgrade to (--to 0.2.0, a wheel, a bundle, a source folder), or --roll-back.")
    place = prefix.absolute() if prefix else command.find_prefix()
    if to is None:
        command.roll_back(place)
    else:
        command.upgrade(place, to, profile)


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from serving import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Runs the command; a refusal is one paragraph on stderr and its own exit code, never a traceback."""
    try:
        app()
    except OnecardError as error:
        typer.echo(f"onecard: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
