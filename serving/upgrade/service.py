"""The systemd service of an installation: what it runs with, by systemd's own words, and its start and stop."""

import argparse
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from serving.errors import ConfigError

UNIT = "onecard.service"
_ASKED = ("LoadState", "ActiveState", "User", "WorkingDirectory", "Environment", "EnvironmentFiles", "ExecStart")


@dataclass(frozen=True)
class Service:
    """`arguments` are those of `onecard serve`; `environment` is what systemd and the settings files give it; `folder` is where
    it runs, which the service's user can enter."""

    active: bool
    user: str
    folder: str
    environment: dict[str, str]
    arguments: tuple[str, ...]

    @property
    def profile(self) -> str | None:
        """As `onecard serve` reads it: the last one counts, and what follows `--` is vLLM's."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--profile", "-p", nargs="?")
        return cast("str | None", parser.parse_known_args(self.arguments)[0].profile)


def find_service(prefix: Path) -> Service | None:
    """The service that runs the installation at `prefix`; None where there is none, or no systemd.

    Raises ConfigError for settings that cannot be read."""
    try:
        done = _systemctl("show", UNIT, f"--property={','.join(_ASKED)}")
    except FileNotFoundError:
        return None
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if told.get("LoadState") != "loaded" or f"{prefix}/bin/onecard" not in told.get("ExecStart", ""):
        return None
    environment = dict(word.split("=", 1) for word in shlex.split(told.get("Environment", "")) if "=" in word)
    folder = told.get("WorkingDirectory", "").removeprefix("!")  # `!`: may be missing
    # `EnvironmentFiles=/etc/onecard/onecard.env (ignore_errors=yes)`, a line each
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        if name == "EnvironmentFiles":
            environment |= _read_settings(Path(value.partition(" (ignore_errors=")[0]))
    try:
        arguments = shlex.split(environment.get("ONECARD_ARGS", ""))
    except ValueError as error:
        raise ConfigError(f"ONECARD_ARGS in the service's settings cannot be read: {error}. Mend it there.") from error
    return Service(
        active=told.get("ActiveState") in ("active", "activating"),
        user=told.get("User", ""),
        folder=folder if folder and Path(folder).is_dir() else "/",  # systemd's own, where the unit names none
        environment=environment,
        arguments=tuple(arguments),
    )


def as_user(user: str, command: list[str]) -> list[str]:
    """The command with that user's rights and no others; as it is where no user is given."""
    return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *command] if user else command


def control(verb: str) -> str:
    """`start`, `stop` or `restart`; what systemd found wrong, empty where it went well. A start returns when it is ready."""
    done = _systemctl(verb, UNIT)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def _systemctl(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(("systemctl", "--no-pager", *words), capture_output=True, text=True, check=False)


def _read_settings(file: Path) -> dict[str, str]:
    """systemd.exec(5), EnvironmentFile: a `NAME=value` a line, quotes optional, `#` and `;` for remarks."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith(("#", ";")))
    return {name.strip(): _without_quotes(value.strip()) for name, value in pairs}


def _without_quotes(value: str) -> str:
    """Only those around the whole: an argument of ONECARD_ARGS may have its own."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
