"""`python -m tests.browser.chromium`: where a Chromium is; fetches one where there is none.

One that is installed is taken as it is. Else Debian's `chromium-headless-shell`, the libraries that it needs and this
machine lacks, and a font with Chinese are downloaded with apt and unpacked with dpkg into `.cache/chromium`: nothing is
installed.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_CACHE = Path(__file__).parent.parent.parent / ".cache" / "chromium"
_PACKAGES = ("chromium-headless-shell", "fonts-droid-fallback")
_INSTALLED = ("chromium", "google-chrome", "google-chrome-stable", "chromium-headless-shell")
_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{fonts}</dir><cachedir>{cache}</cachedir>
<include ignore_missing="yes">/etc/fonts/conf.d</include></fontconfig>
"""


class NotToBeHadError(Exception):
    """There is no Chromium here, and none can be fetched; the message says why."""


@dataclass(frozen=True)
class Chromium:
    """`environment` is what it needs beside the usual one."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)


@cache
def chromium() -> Chromium:
    """Raises NotToBeHadError."""
    for name in _INSTALLED:
        if found := shutil.which(name):
            return Chromium(Path(found))
    unpacked = _CACHE / "usr" / "lib" / "chromium" / "chromium-headless-shell"
    if not (_CACHE / "complete").is_file():
        _fetch()
    libraries = _CACHE / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
    fonts = _CACHE / "fonts.conf"
    fonts.write_text(_FONTS.format(fonts=_CACHE / "usr" / "share" / "fonts", cache=_CACHE / "fontconfig"))
    where = f"{libraries}:{libraries / 'pulseaudio'}"
    return Chromium(unpacked, {"LD_LIBRARY_PATH": where, "FONTCONFIG_FILE": str(fonts)})


def _fetch() -> None:
    if missing := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise NotToBeHadError(f"Chromium is not installed, and {missing[0]}, which would fetch it, is not here")
    shutil.rmtree(_CACHE, ignore_errors=True)
    _CACHE.mkdir(parents=True)
    if _download().returncode:
        # The lists of packages may be missing or old; only root may fetch them.
        _run("apt-get", "update", "-q")
        done = _download()
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["apt-get said nothing"])[-1]
            raise NotToBeHadError(f"Chromium is not installed, and apt cannot fetch it: {last}")
    for package in _CACHE.glob("*.deb"):
        done = _run("dpkg", "-x", str(package), str(_CACHE))
        package.unlink()
        if done.returncode:
            raise NotToBeHadError(f"{package.name} cannot be unpacked: {done.stderr.strip()}")
    (_CACHE / "complete").touch()


def _download() -> subprocess.CompletedProcess[str]:
    """The packages and what they need that this machine lacks."""
    would = _run("apt-get", "install", "--simulate", "--no-install-recommends", *_PACKAGES)
    lacking = re.findall(r"^Inst (\S+)", would.stdout, re.MULTILINE)
    return would if would.returncode else _run("apt-get", "download", *lacking)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=_CACHE, capture_output=True, text=True, timeout=300, check=False)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{chromium()}\n")
    except NotToBeHadError as error:
        sys.exit(str(error))
