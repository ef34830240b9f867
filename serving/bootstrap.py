"""`python3 -m serving.bootstrap`: the environment in `.venv`, from nothing, in one command; nothing to do when it is there.

Owns the order of things and the exit codes; `serving/setup/` has the parts. It is run by whatever `python3` the machine
has, before anything is installed, so this file must be readable to an old one: it is the place that says "too old".
"""

import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 14)  # what vLLM 0.32 and 0.33 are built for
INTERRUPTED = 130


def suitable_python() -> str:
    """This interpreter where its version will do, else the first on the PATH that does; empty where there is none."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        check = f"import sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
        if found and subprocess.call([found, "-c", check], stderr=subprocess.DEVNULL) == 0:
            return found
    return ""


def main() -> int:
    if not sys.platform.startswith("linux"):
        sys.stderr.write("error: onecard runs on Linux, and on Windows inside WSL2; vLLM is built for nothing else.\n")
        return 7
    python = suitable_python()
    if not python:
        sys.stderr.write(
            f"error: Python 3.{OLDEST[1]} to 3.{NEWEST[1]} is needed, and {sys.executable} is {sys.version.split()[0]}. "
            "On Ubuntu 22.04: `sudo add-apt-repository ppa:deadsnakes/ppa && sudo apt install python3.12-venv`; elsewhere "
            "`curl -LsSf https://astral.sh/uv/install.sh | sh && uv python install 3.12`, with ~/.local/bin on the PATH. "
            "Then run the same command again: it finds the new one by itself.\n"
        )
        return 9
    if python != sys.executable:
        os.execv(python, [python, "-m", "serving.bootstrap", *sys.argv[1:]])  # noqa: S606
    from serving.setup.command import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # in the first instants; serving.setup.command takes over from here
        sys.exit(INTERRUPTED)
