"""From the command line to a plan, and on to a launch: the first half of the way through the house."""

import contextlib
import importlib.util
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from serving.errors import (
    CheckpointError,
    DoesNotFitError,
    HardwareError,
    NotInstalledError,
    UsageError,
)
from serving.guard.keys import is_open_to_strangers
from serving.hub import ResolvedModel, resolve_model
from serving.hub.head import ResolvedHead, resolve_head
from serving.ipc.launch import ALLOCATOR_KEYS, Launch
from serving.ipc.settings import GuardSettings
from serving.machine import hardware
from serving.machine.hardware import Hardware
from serving.machine.port import open_socket
from serving.machine.state_dir import make_run_dir
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.planning.adapters import read_adapters
from serving.planning.advice import nearest
from serving.planning.asked import read_asked
from serving.planning.calibration import constants_of
from serving.planning.cards import Cards, choose
from serving.planning.describe import why_not
from serving.planning.engine_args import from_argv
from serving.planning.plan import Plan
from serving.planning.planner import Subject
from serving.planning.present import check_hardware, chosen_profile
from serving.planning.profile import load_models, shape_dir
from serving.setup.choose import MIN_DRIVER
from serving.unsafe import check_unsafe


@dataclass(frozen=True)
class ServerOptions:
    """What is said of the server beside its plan: where it listens, who may ask, and what the guard is set to."""

    host: str
    port: int
    allow_image_urls: bool = False
    api_keys_file: Path | None = None
    guard: GuardSettings = field(default_factory=GuardSettings)


@dataclass(frozen=True)
class Prepared:
    """A plan, and everything that it was made from."""

    plan: Plan
    subject: Subject
    resolved: ResolvedModel
    user_argv: tuple[str, ...]
    cards: Cards
    head: ResolvedHead | None = None


def prepare(
    profile_name: str,
    model_name: str | None,
    *,
    gpu_memory_mib: int | None = None,
    user_argv: tuple[str, ...] = (),
    found: Hardware | None = None,
    cards: int | None = None,
) -> Prepared:
    """Finds profile, model, checkpoint and hardware (`found`, else what this machine has now), and plans for each of `cards`
    cards (planning/cards.py). Starts nothing and downloads no weights."""
    found = found or hardware.detect()
    name, profile = chosen_profile(profile_name, found)
    chosen = choose(found, cards, on_gpu=profile.gpu is not None)
    found, given = found.of(chosen.indices), profile.engine_args | from_argv(user_argv)
    resolved, asked = resolve_model(model_name or profile.model), read_asked(given)
    head = resolve_head(asked.speculation, resolved.model)
    subject = Subject(
        profile_name=name,
        profile=profile,
        model_name=resolved.name,
        model=resolved.model,
        checkpoint=resolved.checkpoint(),
        hardware=found,
        gpu_memory_mib=gpu_memory_mib,
        constants=constants_of(found.gpus[0].name if found.gpus else None),
        own_allocator=bool(ALLOCATOR_KEYS & os.environ.keys()),
        adapters=read_adapters(given.get("lora_modules") or profile.lora_modules),
        head=head.read() if head else None,
    )
    size = asked.number("tensor_parallel_size") or _fewest_together(subject, user_argv, len(chosen.servers))
    return _planned(replace(subject, tensor_parallel_size=size), resolved, user_argv, chosen.together(size), head)


def _fewest_together(subject: Subject, user_argv: tuple[str, ...], cards: int) -> int:
    """The fewest of `cards` cards that must share a server for the model to fit; 1 where no number helps."""
    for size in (1, 2, 4, 8) if cards > 1 else ():
        with contextlib.suppress(UsageError):  # a model that cannot be split over so many
            if size <= cards and replace(subject, tensor_parallel_size=size).plan(from_argv(user_argv)).fits:
                return size
    return 1


def _planned(
    subject: Subject,
    resolved: ResolvedModel,
    user_argv: tuple[str, ...],
    cards: Cards,
    head: ResolvedHead | None,
) -> Prepared:
    user_args = from_argv(user_argv)
    plan = subject.plan(user_args)
    if not plan.fits:
        plan = plan.model_copy(update={"alternatives": nearest(subject, plan, user_args, _other_models(subject))})
    return Prepared(plan.model_copy(update={"servers": len(cards.servers)}), subject, resolved, user_argv, cards, head)


def _other_models(subject: Subject) -> list[Subject]:
    """The same card with other models: other precisions of this one first, then the others, largest first."""
    others = []
    for name, model in load_models().items():
        if name != subject.model_name and model.source.hub and shape_dir(name):
            resolved = resolve_model(name)
            other = replace(subject, model_name=name, model=model, checkpoint=resolved.checkpoint())
            others.append(replace(other, head=None))
    return sorted(others, key=lambda other: (other.model.family != subject.model.family, -other.weights().total))


def make_launch(prepared: Prepared, options: ServerOptions) -> Launch:
    """Checks everything that can fail before anything is loaded, downloads the model if it is not here, and describes the
    start."""
    _check_plan(prepared)
    _check_exposure(options.host, options.api_keys_file)
    check_unsafe(os.environ, prepared.plan.engine_args, allowed=options.guard.unsafe)
    if importlib.util.find_spec("vllm") is None:
        raise NotInstalledError("vLLM is not installed in this environment. `make setup` installs the right one.")
    run_dir = make_run_dir(options.port)
    open_socket(
        options.host, options.port
    ).close()  # checked before a long download; the socket to serve on is opened after it
    head = prepared.head
    if prepared.resolved.folder is None or (head and head.folder is None):
        # The first plan knew the config alone. Now that the files are here: plan again, for the memory that is free by now.
        resolved = replace(prepared.resolved, folder=prepared.resolved.download())
        if head:
            head.download()
        subject = replace(
            prepared.subject,
            checkpoint=resolved.checkpoint(),
            head=head.read() if head else None,
            hardware=hardware.detect().of(prepared.cards.indices),
        )
        prepared = _planned(subject, resolved, prepared.user_argv, prepared.cards, head)
        _check_plan(prepared)
    return Launch(
        plan=prepared.plan,
        model_folder=prepared.resolved.download(),
        default_max_tokens=prepared.resolved.model.default_max_tokens,
        host=options.host,
        port=options.port,
        run_dir=run_dir,
        cards=prepared.cards.servers,
        user_argv=prepared.user_argv,
        allow_image_urls=options.allow_image_urls,
        api_keys_file=options.api_keys_file,
        guard=options.guard,
    )


def plan_again(prepared: Prepared, launch: Launch, found: Hardware) -> Plan | None:
    """A launch planned again for the memory that is free on `found`: smaller if other programs have taken some, else as at
    first. None where nothing useful fits."""
    checkpoint, head = read_checkpoint(Folder(launch.model_folder)), prepared.head
    if head:
        head = replace(head, path=Path(launch.plan.engine_args["speculative_config"]["model"]))
    subject = replace(prepared.subject, checkpoint=checkpoint, head=head.read() if head else None, hardware=found)
    plan = subject.plan(from_argv(launch.user_argv))
    return plan.model_copy(update={"servers": launch.plan.servers}) if plan.fits else None


def _check_plan(prepared: Prepared) -> None:
    """Raises an OnecardError if the plan does not fit, this machine lacks what it needs, or a local folder holds no weights."""
    plan, subject, folder = prepared.plan, prepared.subject, prepared.resolved.folder
    if not plan.fits:
        raise DoesNotFitError(why_not(plan))
    check_hardware(plan.profile, subject.profile, subject.hardware, plan)
    if subject.profile.device == "cuda" and hardware.driver_too_old(subject.hardware.driver_version):
        raise HardwareError(
            f"The NVIDIA driver is {subject.hardware.driver_version}, and vLLM needs {MIN_DRIVER} or newer "
            "(it is built for CUDA 13). Update the driver, or take PROFILE=cpu."
        )
    dummy = plan.engine_args.get("load_format") == "dummy"
    if folder is not None and not subject.checkpoint.tensors and not dummy:
        raise CheckpointError(
            f"{folder} holds no weights (no *.safetensors). Download the model whole; or, to measure speed and memory with "
            "random weights, add `-- --load-format dummy`."
        )
    head = prepared.head
    if head and head.folder and subject.head and not subject.head.has_weights and not dummy:
        raise CheckpointError(
            f"{head.folder} holds no weights of an EAGLE3 head (no *.safetensors): vLLM could load none of another kind "
            "safely. Take a head that is published as safetensors."
        )


def _check_exposure(host: str, api_keys_file: Path | None) -> None:
    if is_open_to_strangers(host, api_keys_file):
        raise UsageError(
            f"--host {host} opens the server to other machines, and no API key is set. Set ONECARD_API_KEY (or "
            "--api-keys-file with `name:key` lines), or stay on 127.0.0.1."
        )
