"""Several models on one card: which ones, each with a plan of its own; one of them is loaded at a time."""

from serving.errors import DoesNotFitError, UsageError
from serving.ipc.launch import Launch
from serving.machine import hardware
from serving.machine.hardware import Hardware
from serving.planning.describe import why_not
from serving.planning.plan import Plan
from serving.planning.present import chosen_profile
from serving.planning.profile import Profile
from serving.prepare import Prepared, ServerOptions, make_launch, plan_again, prepare


def prepare_each(
    profile_name: str,
    model: str | None,
    models: str | None,
    *,
    gpu_memory_mib: int | None = None,
    user_argv: tuple[str, ...] = (),
    cards: int | None = None,
) -> list[Prepared]:
    """A plan for `model` and for each of `models` (names separated by commas, by default the profile's); the first is loaded
    first."""
    found = hardware.detect()
    profile = chosen_profile(profile_name, found)[1]
    listed = [name.strip() for name in models.split(",") if name.strip()] if models else _of(profile)
    names: list[str | None] = [*dict.fromkeys([model, *listed] if model else listed)]
    return [
        prepare(profile_name, name, gpu_memory_mib=gpu_memory_mib, user_argv=user_argv, found=found, cards=cards)
        for name in names or [None]
    ]


def make_launches(prepared: list[Prepared], options: ServerOptions) -> list[Launch]:
    """`make_launch` for each, after all were checked: what is refused is refused before the first download. Raises as
    `check_each` does."""
    check_each(prepared)
    return [make_launch(each, options) for each in prepared]


def check_each(prepared: list[Prepared]) -> None:
    """Raises DoesNotFitError, and UsageError where a request's `model` could mean two of them."""
    seen: dict[str, str] = {}
    for each in prepared:
        plan = each.plan
        if not plan.fits:
            raise DoesNotFitError(why_not(plan))
        for name in plan.model_names:
            if other := seen.get(name):
                raise UsageError(
                    f"{other} and {plan.model} are both served as {name!r}. Leave one out, or give one another name: a "
                    "folder is served under its own."
                )
            seen[name] = plan.model


def plan_each_again(prepared: list[Prepared], launch: Launch, found: Hardware) -> Plan | None:
    """`plan_again` for the model of that launch."""
    own = next(each for each in prepared if each.plan.model == launch.plan.model)
    return plan_again(own, launch, found)


def _of(profile: Profile) -> list[str]:
    return [profile.model, *profile.models] if profile.models else []
