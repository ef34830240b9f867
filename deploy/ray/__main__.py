"""`python -m deploy.ray`: onecard on Ray Serve, until Ctrl-C. With `--address` on a cluster, else on this machine alone."""

import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
import yaml

from deploy.ray.cluster import check_exposure, check_room, connect, require_ray, watch_head
from deploy.ray.settings import read_settings
from serving.errors import NotRunningError, OnecardError, UsageError


def run(
    profile: Annotated[str, typer.Option("--profile", "-p", help="The card: a name that `onecard profiles` lists.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="A name, a Hub id or a folder.")] = None,
    min_replicas: Annotated[int, typer.Option(help="Replicas that always run.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(help="Replicas at most. [as many as always run]")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; others than loopback need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The endpoint's port.")] = 8000,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of the Ray head. [a Ray of this machine alone]")
    ] = None,
    grows: Annotated[bool, typer.Option("--cluster-grows", help="Ray's autoscaler adds machines.")] = False,
    more: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of deploy/ray/settings.py.")
    ] = None,
) -> None:
    """Serve with as many replicas as the load needs, behind one endpoint."""
    given: dict[str, Any] = {"profile": profile, "model": model, "min_replicas": min_replicas}
    given["max_replicas"] = min_replicas if max_replicas is None else max_replicas
    given["gpus"] = 0 if profile == "cpu" else 1
    settings = read_settings(given | dict(_named(each) for each in more or ()))
    check_exposure(host, settings.api_keys_file)
    require_ray()
    from deploy.ray.application import application, plan_of
    from serving.planning.describe import describe_plan

    plan = plan_of(settings)
    typer.echo(describe_plan(plan))
    ray = connect(address)
    check_room(settings, ray.cluster_resources(), grows=grows)
    from ray import serve

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application(settings, plan))
    except RuntimeError as error:
        raise OnecardError(f"The replicas did not start. {_why(serve.status()) or error}") from error
    typer.echo(f"Ready: http://{host}:{port}/v1 with {settings.min_replicas} to {settings.max_replicas} replicas.")
    try:
        watch_head(ray.get_runtime_context().gcs_address)
    except KeyboardInterrupt:
        typer.echo("Ending: what is running is answered first.")
        serve.shutdown()
        ray.shutdown()


def _named(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--set takes NAME=VALUE, as in --set downscale_delay_s=60, and not {word!r}.")
    return name, yaml.safe_load(value)


def _why(status: Any) -> str:
    """What Serve says of the deployments that did not come up."""
    every = [each for app in status.applications.values() for each in app.deployments.values()]
    return "\n".join(each.message for each in every if each.message)


def _end(error: OnecardError) -> NoReturn:
    sys.stderr.write(f"onecard: {error}\n")
    sys.stderr.flush()
    if isinstance(error, NotRunningError):  # Ray's own threads would go on looking for the head
        os._exit(error.exit_code)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    try:
        typer.run(run)
    except OnecardError as refused:
        _end(refused)
