"""`onecard upgrade` from its words to its end. Until the switch nothing of the version in use is touched, and the switch is
one rename; what fails after it is taken back."""

import contextlib
import fcntl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serving.errors import DoesNotFitError, OnecardError, UsageError
from serving.setup.command import interruptible
from serving.setup.environment import Stamp, own_packages_only
from serving.setup.pip import Screen, stop
from serving.setup.releases import Releases
from serving.upgrade.check import ask_known_good
from serving.upgrade.service import Service, as_user, control, find_service
from serving.upgrade.target import fetch_tree


def find_prefix() -> Path:
    """The installation that this command belongs to: PREFIX/releases/NAME/.venv. Raises UsageError where it is none."""
    release = Path(sys.prefix).resolve().parent
    if release.parent.name == "releases":
        return release.parent.parent
    raise UsageError(
        f"This onecard ({sys.prefix}) does not lie beside others, so there is nothing to switch. A checkout is upgraded by "
        "`git pull` and `make serve`; `sudo deploy/install.sh` makes an installation that upgrades itself; --prefix names "
        "one, or a new folder to make one in."
    )


def upgrade(prefix: Path, to: str, profile: str | None) -> None:
    """Installs what `to` names beside the version in use, asks it the known-good question, and switches.

    Raises OnecardError, with everything as it was before, where any of that fails.
    """
    screen, releases = Screen(), Releases(prefix)
    with interruptible(), _alone(prefix), _work_folder(prefix) as work:
        service = find_service(prefix)
        profile = profile or (service.profile if service else None) or "auto"
        before = releases.current
        name = _install(fetch_tree(to, work, screen), prefix, profile)
        if name == before:
            screen.say(f"{name} is in use already; nothing was changed.")
            return
        _check(releases.folder(name), profile, service, screen)
        _switch(releases, name, service, screen)
        for gone in releases.prune():
            screen.say(f"Removed {gone}.")
        back = " `onecard upgrade --roll-back` goes back." if before else ""
        screen.say(f"In use: {name}" + (f", before: {before}.{back}" if before else "."))
        if service is None and before:
            screen.say("A server that runs goes on with the old version until it is started anew.")


def roll_back(prefix: Path) -> None:
    """Goes back to the version before. Raises UsageError where there is none."""
    screen, releases = Screen(), Releases(prefix)
    with interruptible(), _alone(prefix):
        before, name = releases.current, releases.previous
        if not releases.is_whole(name):
            raise UsageError(
                f"There is no version before {before or 'this one'} in {prefix}. --to names one to install."
            )
        _switch(releases, name, find_service(prefix), screen)
        screen.say(f"In use: {name}, before: {before}. The same command goes there again.")


def _install(tree: Path, prefix: Path, profile: str) -> str:
    """By the new version's own code, which knows best what it needs; its progress is shown as it comes."""
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-m", "serving.bootstrap", "--profile", profile, "--into", str(prefix)]
    environment = own_packages_only() | {"PYTHONDONTWRITEBYTECODE": "1"}
    installer = subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, process_group=0)
    try:
        told, _ = installer.communicate()
    finally:
        stop(installer)
    if installer.returncode:
        raise OnecardError("The new version could not be installed; why stands above. The old one is in use as before.")
    return told.decode().split()[-1]


def _check(release: Path, profile: str, service: Service | None, screen: Screen) -> None:
    """The new version takes the service's settings, and answers rightly. Where both would need the one GPU, the service
    makes room meanwhile."""
    onecard = release / ".venv" / "bin" / "onecard"
    if service and service.arguments:
        environment = own_packages_only() | service.environment
        command = as_user(service.user, [str(onecard), "serve", "--dry-run", *service.arguments])
        # Where the service runs: paths are relative to it, and whose rights are taken need not be able to enter this folder.
        done = subprocess.run(command, env=environment, cwd=service.folder, capture_output=True, text=True, check=False)
        # What does not fit now may do so once the service has given its memory back: the restart shows it.
        if done.returncode not in (0, DoesNotFitError.exit_code):
            raise OnecardError(f"The new version does not take the service's settings: {done.stderr.strip()}")
    makes_room = service is not None and service.active and Stamp.read(release / ".venv").variant == "gpu"
    if makes_room:
        screen.say("The service stops while the new version is asked: one GPU holds one of them.")
        control("stop")
    try:
        ask_known_good(onecard, profile, service.user if service else "", screen)
    except BaseException:
        if makes_room:
            screen.say("Starting the old version again ...")
            control("start")
        raise


def _switch(releases: Releases, name: str, service: Service | None, screen: Screen) -> None:
    """And starts the service with it, where it ran; goes back where that fails."""
    before, earlier = releases.current, releases.previous
    releases.switch(name)
    if service is None or not service.active:
        return
    screen.begin(f"Starting the service with {name}; `journalctl -fu onecard` shows its steps")
    try:
        trouble = control("restart")
    except BaseException:
        releases.take_back(before, earlier)
        control("restart")
        raise
    if trouble:
        releases.take_back(before, earlier)
        screen.say(f"It does not start with {name}: going back to {before} ...")
        worse = control("restart")
        raise OnecardError(
            f"The service does not start with {name} ({trouble}); its reasons: journalctl -u onecard -n 50. "
            + (f"Neither does it with {before} ({worse})." if worse else f"It runs with {before} as before.")
        )


@contextlib.contextmanager
def _alone(prefix: Path) -> Iterator[None]:
    """One upgrade at a time, and only of a folder that can be written."""
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        lock = (prefix / ".upgrade.lock").open("w")
    except OSError as error:
        raise OnecardError(
            f"{prefix} cannot be written ({error.strerror}). Where it is root's: sudo onecard upgrade."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OnecardError(f"Another upgrade of {prefix} is under way. Wait until it has ended.") from None
        yield


@contextlib.contextmanager
def _work_folder(prefix: Path) -> Iterator[Path]:
    """For what is unpacked: beside the versions, since /tmp is often small."""
    with tempfile.TemporaryDirectory(prefix=".upgrade-", dir=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
