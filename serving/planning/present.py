"""The card in this machine: which profile fits it, how much of it there is to plan with, and whether a plan can start on it."""

from serving.errors import ConfigError, HardwareError
from serving.machine.hardware import Gpu, Hardware
from serving.planning.plan import Plan, PlannedGpu
from serving.planning.profile import GpuFacts, Profile, configs_dir, load_profile, load_profiles

# vLLM's kernels need Turing or newer.
_OLDEST_CAPABILITY = (7, 5)


def chosen_profile(name: str, hardware: Hardware) -> tuple[str, Profile]:
    """The profile of that name or path, for `auto` the first GPU's. Raises ConfigError if it does not exist."""
    return auto_profile(load_profiles(), hardware) if name == "auto" else load_profile(name)


def auto_profile(profiles: dict[str, Profile], hardware: Hardware) -> tuple[str, Profile]:
    """The profile of the first GPU: the one that names it and has its memory; else `auto`, made from what NVML says and from
    the limits of the largest known card that is no larger. `cpu` if there is no GPU. Raises ConfigError if the user's own
    folder of profiles lacks these."""
    by_size = sorted(
        ((name, profile, profile.gpu) for name, profile in profiles.items() if profile.gpu is not None),
        key=lambda each: each[2].memory_mib,
    )
    if not (by_size if hardware.gpus else "cpu" in profiles):
        needed = "profile of a GPU" if hardware.gpus else "cpu.yaml"
        raise ConfigError(
            f"{configs_dir() / 'profiles'} holds no {needed}, which `auto` needs here: name one with --profile."
        )
    if not hardware.gpus:
        return "cpu", profiles["cpu"]
    card = hardware.gpus[0]
    for name, profile, facts in by_size:
        if card.name in facts.names and facts.can_be(card.total_mib):
            return name, profile
    smaller = [each for each in by_size if each[2].memory_mib <= card.total_mib * 1.05]
    _, like, nearest = (smaller or by_size[:1])[-1]
    facts = GpuFacts(
        names=(card.name,),
        memory_mib=card.total_mib,
        bandwidth_gb_s=card.bandwidth_gb_s or nearest.bandwidth_gb_s,
        compute_capability=card.compute_capability,
    )
    return "auto", like.model_copy(update={"title": card.name, "aliases": (), "gpu": facts})


def planned_gpu(facts: GpuFacts, card: Gpu | None, told_mib: int | None, fraction: float | None) -> PlannedGpu:
    """How much of a card there is to plan with. `card` is the GPU in this machine, None if there is none; `told_mib` and
    `fraction` are the memory and the share that the user asked for, if any."""
    total = told_mib or facts.memory_mib
    if card is not None and told_mib is None and facts.can_be(card.total_mib):
        total = card.total_mib
    usable, taken, here = max(0, total - facts.reserved_mib), 0, card if card and card.holds(total) else None
    if fraction is not None:
        # vLLM takes the fraction of the card that is present, which may be a larger one.
        usable = min(usable, int((here.total_mib if here else total) * fraction))
    if here:
        # `reserved_mib` is kept free in any case; what other programs hold beyond it now is taken.
        taken = max(0, usable - here.free_mib)
    name = card.name if card else facts.names[0]
    others = card.onecards if card and taken else ()
    return PlannedGpu(
        name=name,
        total_mib=total,
        usable_mib=usable - taken,
        taken_mib=taken,
        present_mib=card.total_mib if card else None,
        onecards=others,
    )


def check_hardware(profile_name: str, profile: Profile, hardware: Hardware, plan: Plan) -> None:
    """Raises HardwareError, with the way out, if the plan cannot start on this machine."""
    if profile.gpu is None:
        return
    if not hardware.gpus:
        raise HardwareError(
            f"The profile `{profile_name}` needs an NVIDIA GPU, and {hardware.nvml_problem}. "
            "PROFILE=cpu (or `onecard serve --profile cpu`) serves the built-in demo model without one; "
            "`onecard doctor` says what is missing."
        )
    card: Gpu = hardware.gpus[0]
    if tuple(int(part) for part in card.compute_capability.split(".")) < _OLDEST_CAPABILITY:
        raise HardwareError(
            f"{card.name} is of compute capability {card.compute_capability}, and vLLM needs 7.5 or newer (RTX 20 and "
            "later, GTX 16). PROFILE=cpu serves the built-in demo model without it."
        )
    if not card.holds(plan.gpu.total_mib):
        raise HardwareError(
            f"The profile `{profile_name}` is for a card of {plan.gpu.total_mib:,} MiB, and {card.name} has "
            f"{card.total_mib:,} MiB. PROFILE=auto plans for this one, and so does --gpu-memory-mib {card.total_mib}."
        )
