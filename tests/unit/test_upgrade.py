"""`onecard upgrade` as it is typed: a real environment made by the real setup, with a small onecard in it (tests/upgrading)."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from serving.setup.releases import Releases
from serving.upgrade import service
from tests.upgrading import small_onecard, write_packages

RIGHT = "a red square"
OLD = "0.0.1-00000000"


@dataclass
class Installation:
    """One with an old version in use, and the wheel of a new one."""

    prefix: Path
    wheel: Path
    packages: Path

    @property
    def releases(self) -> Releases:
        return Releases(self.prefix)

    @property
    def started(self) -> list[list[str]]:
        """What was started of onecard: process and arguments."""
        file = self.prefix / "started"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def behave(self, behaviour: str) -> None:
        (self.prefix / "behaviour").write_text(behaviour)

    def start(self, *arguments: str, path: Path | None = None) -> "subprocess.Popen[str]":
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.packages), "PIP_CONFIG_FILE": os.devnull}
        command = [sys.executable, "-m", "serving", "upgrade", "--prefix", str(self.prefix), *arguments]
        # Without systemd, or with the one of the test.
        search = f"{path}:{os.environ['PATH']}" if path else "/usr/bin/nowhere"
        environment = os.environ | index | {"PATH": search}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def run(self, *arguments: str, path: Path | None = None) -> tuple[int, str]:
        process = self.start(*arguments, path=path)
        _, said = process.communicate(timeout=300)
        assert "Traceback" not in said
        return process.returncode, said


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("upgrade")
    packages = folder / "packages"
    packages.mkdir()
    write_packages(packages)
    prefix = folder / "onecard"
    releases = Releases(prefix)
    releases.folder(OLD).mkdir(parents=True)
    releases.mark_whole(OLD)
    return Installation(prefix, small_onecard(folder, "0.0.2"), packages)


@pytest.fixture
def installation(shared: Installation) -> Installation:
    """The old version in use, and none to go back to; the new one's environment is made by the first test that needs it."""
    for name in ("previous", "started", "current"):
        (shared.prefix / name).unlink(missing_ok=True)
    shared.releases.switch(OLD)
    shared.behave(RIGHT)
    return shared


def test_a_version_that_answers_rightly_is_switched_to_and_back(installation: Installation) -> None:
    code, said = installation.run("--to", str(installation.wheel), "--profile", "cpu")
    assert code == 0, said
    assert "sees a red square and says: 'a red square'" in said
    new = installation.releases.current
    assert new.startswith("0.0.2-")
    assert installation.releases.previous == OLD
    # It is what the command of the installation starts, in an environment of its own.
    command = (installation.prefix / "bin" / "onecard").resolve()
    assert command.read_text().startswith(f"#!{installation.releases.folder(new)}/.venv/bin/python")

    code, said = installation.run("--to", str(installation.wheel), "--profile", "cpu")
    assert (code, installation.releases.current) == (0, new)
    assert "in use already; nothing was changed" in said

    for wanted, before in ((OLD, new), (new, OLD)):
        assert installation.run("--roll-back")[0] == 0
        assert (installation.releases.current, installation.releases.previous) == (wanted, before)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("a cat", "answers wrongly: a red square is to it 'a cat'"),
        ("die", "does not start (exit code 1). Its last words:\nonecard: this version does not start."),
    ],
)
def test_a_version_that_fails_is_not_switched_to(installation: Installation, behaviour: str, says: str) -> None:
    installation.behave(behaviour)
    code, said = installation.run("--to", str(installation.wheel), "--profile", "cpu")
    assert code == 1
    assert says in said
    assert installation.releases.current == OLD


def test_ctrl_c_leaves_the_old_version_and_no_process(installation: Installation) -> None:
    installation.behave("starting")
    upgrade = installation.start("--to", str(installation.wheel), "--profile", "cpu")
    deadline = time.monotonic() + 300
    while not installation.started:
        assert upgrade.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    upgrade.send_signal(signal.SIGINT)
    _, said = upgrade.communicate(timeout=60)
    assert upgrade.returncode == 130, said
    assert "Traceback" not in said
    assert installation.releases.current == OLD
    assert not psutil.pid_exists(int(installation.started[0][0]))
    assert not list(installation.prefix.glob(".upgrade-*"))


SYSTEMCTL = """#!{python}
import json, os, sys
words = [word for word in sys.argv[1:] if word != "--no-pager"]
with open({log!r}, "a") as log:
    log.write(json.dumps([words[0], os.readlink({prefix!r} + "/current")]) + "\\n")
if words[0] == "show":
    print("LoadState=loaded\\nActiveState=active\\nUser={user}\\nEnvironment=HOME=/tmp ONECARD_STATE_DIR=/tmp")
    print("WorkingDirectory=!{folder}\\nEnvironmentFiles={settings} (ignore_errors=yes)")
    print("EnvironmentFiles=/gone (ignore_errors=yes)")
    print("ExecStart={{ path={prefix}/bin/onecard ; argv[]={prefix}/bin/onecard serve $ONECARD_ARGS }}")
elif words[0] == "restart" and "0.0.2" in os.readlink({prefix!r} + "/current") and os.path.exists({prefix!r} + "/broken"):
    sys.exit("Job for onecard.service failed.")
"""


@pytest.fixture
def systemd(installation: Installation, tmp_path: Path) -> Path:
    """A folder with a `systemctl` that knows the service, and writes down what it is told and which version is in use."""
    settings = tmp_path / "onecard.env"
    settings.write_text("# Version of this file: 1\nONECARD_ARGS=--profile cpu --port 4\n")
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    log = str(tmp_path / "told")
    # Another user's rights can be taken by root alone, and pytest's folders are closed to others: so root's own.
    user = "root" if os.geteuid() == 0 else ""
    program.write_text(
        SYSTEMCTL.format(
            python=sys.executable,
            log=log,
            prefix=str(installation.prefix),
            settings=settings,
            user=user,
            folder=tmp_path,
        )
    )
    program.chmod(0o755)
    return program.parent


def told(systemd: Path) -> list[list[str]]:
    lines = (systemd.parent / "told").read_text().splitlines()
    return [words for words in map(json.loads, lines) if words[0] != "show"]


def test_the_service_is_started_with_the_new_version(installation: Installation, systemd: Path) -> None:
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    assert code == 0, said
    assert told(systemd) == [["restart", f"releases/{installation.releases.current}"]]
    settings, question = (words[1:] for words in installation.started)
    assert settings == ["serve", "--dry-run", "--profile", "cpu", "--port", "4"]
    assert question[:5] == ["serve", "--profile", "cpu", "--model", "demo"]


@pytest.mark.parametrize("written", ["-p cpu -- -pp 1", "--profile auto -pcpu"])
def test_the_new_version_is_for_the_card_of_the_settings(
    installation: Installation, systemd: Path, written: str
) -> None:
    (systemd.parent / "onecard.env").write_text(f"ONECARD_ARGS={written}\n")
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    assert code == 0, said
    assert installation.started[1][1:4] == ["serve", "--profile", "cpu"]


def test_settings_are_read_as_systemd_reads_them_and_tried_where_the_service_runs(
    installation: Installation, systemd: Path
) -> None:
    """With quotes within, from more files than one, and with paths relative to the service's folder."""
    settings = systemd.parent / "onecard.env"
    settings.write_text("ONECARD_ARGS=--profile cpu --model \"./my models/x\"\nONECARD_LOG_FORMAT='json'\n")
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    assert code == 0, said
    assert installation.started[0][1:] == ["serve", "--dry-run", "--profile", "cpu", "--model", "./my", "models/x"]
    assert (installation.prefix / "checked-in").read_text() == str(systemd.parent)


@pytest.mark.parametrize(("named", "folder"), [("", "/"), ("!/gone", "/"), ("!/usr", "/usr")])
def test_a_service_runs_in_the_folder_that_its_unit_names_or_else_in_the_root(
    monkeypatch: pytest.MonkeyPatch, named: str, folder: str
) -> None:
    shown = f"LoadState=loaded\nWorkingDirectory={named}\nExecStart={{ path=/opt/x/bin/onecard ; }}\n"
    monkeypatch.setattr(service, "_systemctl", lambda *_words: subprocess.CompletedProcess((), 0, shown, ""))
    found = service.find_service(Path("/opt/x"))
    assert found is not None
    assert found.folder == folder


def test_settings_that_cannot_be_read_are_named_before_anything_is_done(
    installation: Installation, systemd: Path
) -> None:
    (systemd.parent / "onecard.env").write_text('ONECARD_ARGS=--profile "cpu\n')
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    assert (code, installation.started) == (4, [])
    assert "ONECARD_ARGS in the service's settings cannot be read: No closing quotation" in said


def test_a_service_that_holds_the_memory_is_no_reason_not_to_upgrade_it(
    installation: Installation, systemd: Path
) -> None:
    (installation.prefix / "taken").touch()
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    (installation.prefix / "taken").unlink()
    assert code == 0, said


@pytest.mark.parametrize("earlier", ["", "0.0.0-00000000"])
def test_a_service_that_does_not_start_runs_the_old_version_again(
    installation: Installation, systemd: Path, earlier: str
) -> None:
    if earlier:
        (installation.prefix / "previous").symlink_to(f"releases/{earlier}")
    (installation.prefix / "broken").touch()
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    (installation.prefix / "broken").unlink()
    assert code == 1
    assert f"It runs with {OLD} as before." in said
    assert [words[0] for words in told(systemd)] == ["restart", "restart"]
    assert told(systemd)[-1][1] == f"releases/{OLD}"
    assert (installation.releases.current, installation.releases.previous) == (OLD, earlier), "to go back to the same"


def test_settings_that_the_new_version_does_not_take_end_it_before_the_switch(
    installation: Installation, systemd: Path
) -> None:
    installation.behave("refuse")
    code, said = installation.run("--to", str(installation.wheel), path=systemd)
    assert code == 1
    assert "does not take the service's settings: onecard: unknown key `colour`." in said
    assert told(systemd) == []
    assert installation.releases.current == OLD


def test_what_is_no_version_is_refused_in_words(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    for to, says in (
        (str(tmp_path), "holds no onecard"),
        (str(tmp_path / "notes.txt"), "neither a wheel nor a bundle"),
        (str(tmp_path / "gone.whl"), "There is no"),
        ("~nobody-here/onecard", "There is no ~nobody-here/onecard"),
    ):
        code, said = installation.run("--to", to)
        assert (code, installation.releases.current) == (2, OLD)
        assert says in said
    assert "no version before" in installation.run("--roll-back")[1]
    assert "or --roll-back" in installation.run()[1]


def test_an_onecard_that_lies_beside_no_other_says_how_it_is_upgraded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "upgrade", "--roll-back"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "git pull" in done.stderr
