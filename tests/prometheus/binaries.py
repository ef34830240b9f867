"""`python -m tests.prometheus.binaries`: where `prometheus` and `promtool` are; fetches them where they are not.

Debian's and Ubuntu's package is downloaded with apt and unpacked with dpkg, into `.cache/prometheus`: nothing is installed
and no service starts.
"""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

_CACHE = Path(__file__).parent.parent.parent / ".cache" / "prometheus"


class NotToBeHadError(Exception):
    """There is no Prometheus here, and none can be fetched; the message says why."""


@cache
def binary(name: str) -> Path:
    """The path of `prometheus` or `promtool`. Raises NotToBeHadError."""
    if found := shutil.which(name):
        return Path(found)
    unpacked = _CACHE / "usr" / "bin" / name
    if not unpacked.is_file():
        _fetch()
    return unpacked


def _fetch() -> None:
    if missing := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise NotToBeHadError(f"Prometheus is not installed, and {missing[0]}, which would fetch it, is not here")
    _CACHE.mkdir(parents=True, exist_ok=True)
    if _run("apt-get", "download", "prometheus").returncode:
        # The lists of packages may be missing or old; only root may fetch them.
        _run("apt-get", "update", "-q")
        done = _run("apt-get", "download", "prometheus")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["apt-get said nothing"])[-1]
            raise NotToBeHadError(f"Prometheus is not installed, and apt cannot fetch it: {last}")
    package = next(_CACHE.glob("prometheus_*.deb"))
    done = _run("dpkg", "-x", str(package), str(_CACHE))
    package.unlink()
    if done.returncode:
        raise NotToBeHadError(f"Prometheus' package cannot be unpacked: {done.stderr.strip()}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=_CACHE, capture_output=True, text=True, timeout=300, check=False)


if __name__ == "__main__":
    for each in ("prometheus", "promtool"):
        try:
            sys.stdout.write(f"{binary(each)}\n")
        except NotToBeHadError as error:
            sys.exit(str(error))
