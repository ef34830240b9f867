"""`make setup` from its arguments to its exit code: look, decide, then install; one at a time, and cleanly interrupted.

With `--into` the same beside other versions (releases.py), with `--bundle` what another machine installs from (bundle.py).
"""

import argparse
import contextlib
import errno
import fcntl
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from serving.errors import DiskFullError, OnecardError
from serving.setup.bundle import Bundle, bundle_around, make_bundle
from serving.setup.choose import check_disk, choose_variant, profile_device, warnings
from serving.setup.environment import Environment, Stamp, is_up_to_date
from serving.setup.machine import free_mib, gpu_signs, read_machine, used_mib
from serving.setup.pip import Screen
from serving.setup.project import project_digest
from serving.setup.releases import Releases

ROOT = Path(__file__).resolve().parents[2]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a polite `kill`. Its exit code is the shell's: 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def run(arguments: Sequence[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m serving.bootstrap", description="Makes or completes .venv.")
    parser.add_argument("--profile", default="auto", help="decides between vLLM for the GPU and for the CPU")
    parser.add_argument("--dev", action="store_true", help="also what the tests and the linters need")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--into", type=Path, metavar="PREFIX", help="a copy of this onecard there instead; prints its name"
    )
    other.add_argument("--bundle", type=Path, metavar="FILE", help="an archive to install from offline, instead")
    options = parser.parse_args(arguments)
    screen = Screen()
    try:
        with interruptible():
            if options.bundle:
                make_bundle(root, options.profile, options.bundle, screen)
            elif options.into:
                _install(root, options.profile, options.into, screen)
            else:
                _set_up(root, options.profile, ("dev",) if options.dev else (), screen)
    except Interrupted as interruption:
        screen.say("Interrupted. The same command goes on from here.")
        return interruption.exit_code
    except OnecardError as error:
        screen.say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        refusal = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else OnecardError
        screen.say(f"error: The environment could not be written: {error}. Mend that and run the same command again.")
        return refusal.exit_code
    return 0


def _install(root: Path, profile: str, prefix: Path, screen: Screen) -> None:
    """One version more at PREFIX, from the files in `root`; switched to it is not."""
    prefix.mkdir(parents=True, exist_ok=True)
    releases = Releases(prefix.resolve())
    name = releases.add(root)
    _set_up(releases.folder(name), profile, (), screen, bundle_around(root))
    releases.mark_whole(name)
    sys.stdout.write(f"{name}\n")


def _set_up(root: Path, profile: str, extras: tuple[str, ...], screen: Screen, bundle: Bundle | None = None) -> None:
    device = profile_device(profile, root / "configs" / "profiles")
    wanted = Stamp(root=str(root), project=project_digest(root), gpu_signs=gpu_signs(), extras=extras)

    def up_to_date() -> bool:
        stamp = Stamp.read(root / ".venv")
        variant = {"cpu": "cpu", "cuda": "gpu", "auto": stamp.variant}[device]
        return is_up_to_date(stamp, root / ".venv", replace(wanted, variant=variant))

    if up_to_date():
        return
    cache = root / ".cache"
    cache.mkdir(exist_ok=True)
    with _alone(cache / "setup.lock", screen):
        if up_to_date():  # thanks to the one that was waited for
            return
        began = time.monotonic()
        machine = read_machine(root)
        variant = choose_variant(profile, device, machine.gpu, wsl=machine.wsl)
        for warning in warnings(variant, machine):
            screen.say(f"warning: {warning}")
        settings = bundle.pip_settings() if bundle else {}
        environment = Environment(root, replace(wanted, variant=variant), screen, cache, settings)
        if environment.lacks_vllm():
            if bundle:
                bundle.check(variant, screen)
            check_disk(variant, free_mib(root), used_mib(root / ".venv"), root)
            target = f"{machine.gpu.names[0]} (driver {machine.gpu.driver})" if variant == "gpu" else "the CPU"
            screen.say(f"Setting up .venv for {target}; pip's own words are in {environment.log}.")
        environment.build()
        screen.say(f"The environment is ready, after {time.monotonic() - began:.0f} s.")


@contextlib.contextmanager
def _alone(lock: Path, screen: Screen) -> Iterator[None]:
    """Holds the lock of this checkout; the kernel gives it back however this process ends."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            screen.say("Another `make` is setting up this checkout; waiting until it has finished ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turns the first SIGINT, SIGTERM or SIGHUP into Interrupted, and ignores those that follow while it is obeyed."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
