"""`deploy/install.sh` as root runs it, in folders of the test and with the system's programs stood in for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "deploy" / "install.sh"
PLACES = (
    "/opt/onecard",
    "/etc/onecard",
    "/var/lib/onecard",
    "/var/cache/onecard",
    "/etc/systemd/system",
    "/usr/local/bin",
)
# As many libraries as a desktop has, more than a pipe holds.
LDCONFIG = """printf '\\tlibnuma.so.1 (libc6,x86-64) => /lib/libnuma.so.1\\n'
i=0
while [ $i -lt 3000 ]; do
  printf '\\tlib%s.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/lib%s.so.1\\n' $i $i || exit 1
  i=$((i+1))
done
"""
# Without the owner, who is not here.
INSTALL = """for each; do
  shift
  case $each in
    --owner | --group) skip=1 ;;
    *) [ -n "$skip" ] || set -- "$@" "$each"; skip= ;;
  esac
done
exec /usr/bin/install "$@"
"""
# The setup makes a version whose `onecard` writes down what it is asked; all else is Python's own.
PYTHON = """case "$*" in
  *serving.bootstrap*)
    echo "bootstrap $*" >>{root}/told
    bin={root}/opt/onecard/releases/$(cat {root}/version)/.venv/bin
    mkdir -p "$bin"; cp {root}/onecard "$bin/onecard"; cat {root}/version ;;
  *ensurepip*) ;;
  *) exec {python} "$@" ;;
esac
"""
ONECARD = """#!/bin/sh
case $1 in
  profiles) echo '{{"profiles": {{"cpu": {{"model": "demo"}}, "rtx3060": {{"model": "qwen3-vl-2b-awq"}}}}}}' ;;
  *) echo "onecard $*" >>{root}/told; [ ! -e {root}/no-network ] ;;
esac
"""
SYSTEMCTL = """[ "$1" = is-active ] || echo "systemctl $*" >>{root}/told
case $1 in
  is-active) [ -e {root}/active ] ;;
  start | restart) rm -f {root}/active; [ ! -e {root}/broken ] && touch {root}/active ;;
esac
"""


class Machine:
    """A bare one. `told` is what its service manager, setup and onecard have been told since it was last asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "run/systemd/system", "usr/local/bin", "var/lib", "var/cache", "opt", "etc"):
            (root / name).mkdir(parents=True)
        programs = {
            "ldconfig": LDCONFIG, "python3": PYTHON, "systemctl": SYSTEMCTL, "getent": "", "chgrp": "", "cc": "",
            "setpriv": 'while [ "$1" != env ]; do shift; done; exec "$@"',
            "install": INSTALL,
            "apt-get": "echo apt-get \"$@\" >>{root}/told",
        }  # fmt: skip
        for name, text in programs.items():
            program = root / "bin" / name
            program.write_text("#!/bin/sh\n" + text.replace("{root}", str(root)).replace("{python}", sys.executable))
            program.chmod(0o755)
        (root / "onecard").write_text(ONECARD.format(root=root))
        (root / "onecard").chmod(0o755)
        script = SCRIPT.read_text().replace("$EUID", "0").replace("/run/systemd", f"{root}/run/systemd")
        for place in PLACES:
            script = script.replace(f"={place}", f"={root}{place}")
        (root / "source" / "deploy").mkdir(parents=True)
        (root / "source" / "deploy" / "systemd").symlink_to(SCRIPT.parent / "systemd")
        self._script = root / "source" / "deploy" / "install.sh"
        self._script.write_text(script)
        self.holds("0.0.1-a")

    def holds(self, version: str) -> None:
        """The checkout from now on."""
        (self.root / "version").write_text(version)

    def set(self, name: str, *, on: bool) -> None:
        if on:
            (self.root / name).touch()
        else:
            (self.root / name).unlink()

    def install(self, *arguments: str) -> tuple[int, str]:
        search = {"PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", self._script, *arguments],
            env=os.environ | search,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def told(self) -> list[str]:
        file = self.root / "told"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    @property
    def current(self) -> str:
        return os.path.basename(os.readlink(self.root / "opt/onecard/current"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    code, said = machine.install("--profile", "cpu")
    assert code == 0, said
    assert not any(line.startswith("apt-get") for line in machine.told), "libnuma is here, among many others"
    code, said = machine.install("--profile", "cpu")
    assert code == 0, said
    assert "nothing was changed" in said
    assert not any("restart" in line for line in machine.told)


def test_a_service_that_did_not_start_is_started_by_the_next_run(machine: Machine) -> None:
    machine.set("broken", on=True)
    code, said = machine.install("--profile", "cpu")
    assert code == 1
    assert "its reasons: journalctl" in said
    machine.set("broken", on=False)
    assert machine.told
    code, said = machine.install("--profile", "cpu")
    assert code == 0, said
    assert "nothing was changed" not in said
    assert machine.told[-2:] == ["systemctl reset-failed onecard", "systemctl start onecard"]


def test_a_new_version_is_switched_to_once_it_has_its_model(machine: Machine) -> None:
    assert machine.install("--profile", "cpu")[0] == 0
    machine.holds("0.0.2-b")
    machine.set("no-network", on=True)
    code, said = machine.install("--profile", "cpu")
    assert code == 1
    assert "run this again to go on" in said
    assert machine.current == "0.0.1-a", "the service may start again at any time, with what has its model"
    machine.set("no-network", on=False)
    assert machine.told
    assert machine.install("--profile", "cpu")[0] == 0
    assert machine.current == "0.0.2-b"
    assert machine.told[-1] == "systemctl restart onecard"


@pytest.mark.parametrize(
    "written",
    [
        "--profile cpu",
        "--port 8010 --profile=cpu",
        '"--profile cpu --host 0.0.0.0"',
        "-p cpu",
        "--port 8010 -pcpu",
        '"-p cpu -- -pp 1"',
        "--profile cpu -- --profiler-config x -pp 1",
    ],
)
def test_a_later_run_installs_for_the_card_of_the_settings(machine: Machine, written: str) -> None:
    assert machine.install("--profile", "cpu")[0] == 0
    settings = machine.root / "etc/onecard/onecard.env"
    settings.write_text(f"#ONECARD_ARGS=--profile rtx3060\nONECARD_ARGS={written}\n")
    assert machine.told
    assert machine.install()[0] == 0
    assert machine.told[0].startswith("bootstrap -m serving.bootstrap --profile cpu ")

    code, said = machine.install("--profile", "rtx3060")
    assert code == 1
    assert "settings name the profile cpu, not rtx3060. Change ONECARD_ARGS" in said
    assert machine.told == []
