"""The Serve application: the door and the replicas behind it. `serve run deploy.ray.application:build profile=rtx3060` builds
it, and so do a Serve config file (serve.yaml) and `python -m deploy.ray`."""

from typing import Any

from starlette.types import ASGIApp

from deploy.ray.door import REPLICAS, build_door
from deploy.ray.replica import Replica
from deploy.ray.settings import Settings, read_settings
from serving.errors import DoesNotFitError
from serving.planning.describe import why_not
from serving.planning.plan import Plan
from serving.prepare import prepare

# Of what a replica runs at once; beyond it another is started.
_TARGET = 0.75
# Each needs some time to notice that a replica is gone.
_HEALTH_S = 2.0


def build(args: dict[str, Any]) -> Any:
    """The application of those settings (`settings.py`). Raises OnecardError for what makes no sense or does not fit."""
    settings = read_settings(args)
    return application(settings, plan_of(settings))


def plan_of(settings: Settings) -> Plan:
    """The plan that each replica's `onecard serve` will make on a card of that profile. Raises DoesNotFitError."""
    plan = prepare(settings.profile, settings.model, user_argv=settings.vllm_arguments).plan
    if not plan.fits:
        raise DoesNotFitError(why_not(plan))
    return plan


def application(settings: Settings, plan: Plan) -> Any:
    """Door and replicas, each with the options that follow from settings and plan."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig

    most = settings.max_ongoing_requests or plan.capacity.max_num_seqs
    resources: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    if settings.accelerator:
        resources["accelerator_type"] = settings.accelerator
    replicas = serve.deployment(
        name=REPLICAS,
        ray_actor_options=resources,
        max_ongoing_requests=most,
        max_queued_requests=settings.max_queued_requests or 2 * most * settings.max_replicas,
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.target_ongoing_requests or _TARGET * most,
            upscale_delay_s=settings.upscale_delay_s,
            downscale_delay_s=settings.downscale_delay_s,
            metrics_interval_s=settings.metrics_interval_s,
            look_back_period_s=5 * settings.metrics_interval_s,
        ),
        # A running answer holds its replica; Serve looks every second whether there still is one.
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=settings.drain_s,
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=30.0,
        max_constructor_retry_count=2,  # what onecard refuses in words, it refuses again
        # A new version starts before an old one ends where a card is free for it.
        max_surge_percent=100,
    )(Replica)
    door = serve.deployment(name="door", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10_000)
    return door(_door_class(settings, plan.limits.max_body_mib * 2**20)).bind(
        replicas.bind(settings.model_dump(mode="json"))
    )


def _door_class(settings: Settings, max_body_bytes: int) -> Any:
    from ray import serve

    def build_app() -> ASGIApp:
        return build_door(settings, max_body_bytes)

    class Door:
        """Holds the replicas' handle, so that Serve deploys them with it; `door.py` answers."""

        def __init__(self, replicas: Any) -> None:
            self.replicas = replicas

    return serve.ingress(build_app)(Door)
