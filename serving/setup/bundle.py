"""An offline bundle: one archive that holds all that an installation fetches otherwise, for a machine without network.

    onecard-0.1.0-cpu-py3.11-x86_64/
        install.sh       deploy/install.sh, which sees that it lies in a bundle
        bundle.json      what it is for: vLLM's build, Python, machine
        SHA256SUMS       of all below, checked before anything is installed
        source/          this onecard
        wheels/          every package, as wheels
        model/           the profile's model, as a folder for HF_HOME; empty where it comes with onecard

Made by `deploy/install.sh --make-bundle` on a machine with network and the same Python and processor; no GPU is needed there.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.errors import OnecardError, UsageError
from serving.setup.choose import Variant, profile_device
from serving.setup.environment import PIP, PYTORCH_CPU_INDEX, pip_environment
from serving.setup.pip import Done, Screen, explain, run
from serving.setup.project import cpu_pins, version
from serving.setup.releases import PARTS

FACTS, SUMS = "bundle.json", "SHA256SUMS"
FORMAT = 1
_CHUNK = 2**22


@dataclass(frozen=True)
class Facts:
    """What a bundle is for. `version` is of this format."""

    variant: Variant
    profile: str
    onecard: str
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    machine: str = platform.machine()
    version: int = FORMAT

    @property
    def name(self) -> str:
        return f"onecard-{self.onecard}-{self.variant}-py{self.python}-{self.machine}"


@dataclass(frozen=True)
class Bundle:
    """An unpacked one."""

    folder: Path

    def pip_settings(self) -> dict[str, str]:
        """Under which pip takes its packages from here and asks nobody else."""
        return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.folder / "wheels"), "PIP_CONFIG_FILE": os.devnull}

    def check(self, variant: Variant, screen: Screen) -> None:
        """Raises OnecardError where it is damaged, or for another kind of machine."""
        try:
            facts = Facts(**json.loads((self.folder / FACTS).read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise OnecardError(f"{self.folder / FACTS} is of another version of onecard: {error}.") from error
        here = Facts(variant, facts.profile, facts.onecard)
        if facts != here:
            raise OnecardError(
                f"This bundle is {facts.name} (format {facts.version}), and this machine needs {here.name} (format "
                f"{FORMAT}): make one with the same Python on the same kind of machine, `deploy/install.sh --make-bundle`."
            )
        began = time.monotonic()
        for line in (self.folder / SUMS).read_text("utf-8").splitlines():
            expected, _, name = line.partition("  ")
            screen.now("Checking the bundle", name, time.monotonic() - began)
            if _sum(self.folder / name) != expected:
                raise OnecardError(f"{self.folder / name} is damaged: its checksum is another. Copy the bundle again.")


def bundle_around(root: Path) -> Bundle | None:
    """The bundle that this source tree lies in; None where it lies in none."""
    return Bundle(root.parent) if (root.parent / FACTS).is_file() else None


def make_bundle(root: Path, profile: str, file: Path, screen: Screen) -> None:
    """Writes the archive, from this source tree. What was fetched before an interruption is kept beside it for the next run.

    Raises OnecardError where a package or the model cannot be had.
    """
    device = profile_device(profile, root / "configs" / "profiles")
    if device == "auto":
        raise UsageError(
            "A bundle is for one card, which need not be in this machine: name it, as in --profile rtx3060."
        )
    facts = Facts("cpu" if device == "cpu" else "gpu", profile, version(root))
    work = file.absolute().with_name(f".{file.name}.partial")
    folder = work / facts.name
    folder.mkdir(parents=True, exist_ok=True)
    # Packages are built from a copy: setuptools leaves its own files beside what it builds.
    _copy_source(root, work / "tree")
    maker = _Maker(work / "tree", work, folder, screen)
    maker.fetch_packages(facts.variant)
    maker.fetch_model(profile)
    pack(root, facts, work, file, screen)
    shutil.rmtree(work)
    screen.say(
        f"{file}: {file.stat().st_size / 1e9:.1f} GB. There: tar -xf {file.name} && sudo {facts.name}/install.sh"
    )


def pack(root: Path, facts: Facts, work: Path, file: Path, screen: Screen) -> None:
    """Adds what is not fetched to the bundle in `work`, and writes the archive of it."""
    folder = work / facts.name
    _copy_source(root, folder / "source")
    link = folder / "install.sh"
    link.unlink(missing_ok=True)
    link.symlink_to("source/deploy/install.sh")
    (folder / FACTS).write_text(json.dumps(asdict(facts), indent=1) + "\n", "utf-8")
    began = time.monotonic()
    sums = []
    for each in _contents(folder):
        screen.now("Checksums", each.name, time.monotonic() - began)
        sums.append(f"{_sum(each)}  {each.relative_to(folder)}\n")
    (folder / SUMS).write_text("".join(sums), "utf-8")

    def tell(member: tarfile.TarInfo) -> tarfile.TarInfo:
        screen.now("Writing the archive", member.name, time.monotonic() - began)
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tarfile.open(whole := work / file.name, "w") as archive:
        archive.add(folder, facts.name, filter=tell)
    whole.replace(file)


class _Maker:
    """Fetches into `folder`, with a pip of its own in `work`."""

    def __init__(self, root: Path, work: Path, folder: Path, screen: Screen) -> None:
        self._root, self._work, self._screen = root, work, screen
        self._wheels, self._model = folder / "wheels", folder / "model"
        self._python = str(work / "venv" / "bin" / "python")
        self._log = work / "bundle.log"
        self._environment = pip_environment(work)

    def fetch_packages(self, variant: Variant) -> None:
        """Every wheel of an installation; what is published as source alone is built here."""
        self._wheels.mkdir(exist_ok=True)
        self._must("a pip of its own", sys.executable, "-m", "venv", str(self._work / "venv"))
        self._must("a recent pip", *self._pip("install", "--upgrade", PIP))
        self._must("pip and setuptools", *self._pip("wheel", *self._into, PIP, "setuptools>=77"))
        only_cpu: tuple[str, ...] = ()
        if variant == "cpu":
            pins = self._fetch_torch()
            # Else the resolver would take the CUDA build beside it, which has the same version.
            constraints = self._work / "constraints.txt"
            constraints.write_text("\n".join(pins) + "\n", "utf-8")
            only_cpu = ("--constraint", str(constraints))
        title = f"vLLM for the {variant.upper()} and all it needs"
        self._must(title, *self._pip("wheel", *self._into, *only_cpu, f"{self._root}[{variant}]"))
        for wheel in self._wheels.glob("onecard-*.whl"):
            wheel.unlink()  # installed from source/

    def fetch_model(self, profile: str) -> None:
        """The profile's model, by the code that pulls it on any machine."""
        self._model.mkdir(exist_ok=True)
        self._must(
            "what `onecard pull` needs", *self._pip("install", "--find-links", str(self._wheels), str(self._root))
        )
        script = (
            "import sys; from serving.planning.profile import load_profile; print(load_profile(sys.argv[1])[1].model)"
        )
        done = self._run("the profile", self._python, "-c", script, profile)
        if done.returncode:
            raise explain("The profile", done, self._log)
        self._environment |= {"HF_HOME": str(self._model)}
        self._must(f"the model {done.tail[-1]}", self._python, "-m", "serving", "pull", done.tail[-1])

    def _fetch_torch(self) -> list[str]:
        """The pins that could be had: torchvision's CPU build may be missing, and is mended when it is installed."""
        pins = cpu_pins(self._root)
        for attempt in (pins, ["--index-url", PYTORCH_CPU_INDEX, *pins]):
            done = self._run("torch for the CPU", *self._pip("wheel", *self._into, *attempt))
            if done.returncode == 0:
                return pins
        self._must("torch for the CPU", *self._pip("wheel", *self._into, pins[0]))
        return pins[:1]

    @property
    def _into(self) -> Sequence[str]:
        return ("--wheel-dir", str(self._wheels), "--find-links", str(self._wheels))

    def _pip(self, command: str, *arguments: str) -> Sequence[str]:
        return (self._python, "-m", "pip", command, *arguments)

    def _must(self, title: str, *command: str) -> None:
        done = self._run(title, *command)
        if done.returncode:
            raise explain(title.capitalize(), done, self._log)

    def _run(self, title: str, *command: str) -> Done:
        self._screen.begin(title)
        return run(command, title, cwd=self._root, env=self._environment, log=self._log, screen=self._screen)


def _copy_source(root: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for found in (found for part in (*PARTS, "deploy") for found in root.glob(part)):
        if found.is_dir():
            shutil.copytree(found, place / found.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, place)


def _contents(folder: Path) -> Iterator[Path]:
    """The files that are summed, in order; links within the model's cache lead to files that are."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != SUMS:
            yield path


def _sum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
