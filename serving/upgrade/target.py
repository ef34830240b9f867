"""What `--to` names, as a folder from which a version can be installed."""

import os
import sys
import tarfile
import zipfile
from pathlib import Path

from serving.errors import NotInstalledError, OnecardError, UsageError
from serving.setup.bundle import FACTS
from serving.setup.environment import pip_environment
from serving.setup.pip import Screen, explain, run
from serving.setup.project import version


def fetch_tree(to: str, work: Path, screen: Screen) -> Path:
    """A source tree as it lies, or what was unpacked or downloaded into `work`, an empty
    folder of the installation, where pip and tar leave `upgrade.log`.

    Raises UsageError for what is none of them, NotInstalledError where the package index has no such version.
    """
    path = Path(os.path.expanduser(to))
    if path.is_dir():
        tree = path / "source" if (path / FACTS).is_file() else path
        return _checked(tree.resolve(), to)
    if path.is_file():
        return _checked(_unpack(path, work, screen), to)
    if path.suffix in (".whl", ".tar") or "/" in to:
        raise UsageError(f"There is no {to}. --to takes a folder, a wheel, a bundle, or a version such as 0.2.0.")
    return _checked(_unpack(_download(to, work, screen), work, screen), to)


def _checked(tree: Path, to: str) -> Path:
    if not version(tree) or not (tree / "serving" / "bootstrap.py").is_file():
        raise UsageError(f"{to} holds no onecard that can be installed: there is no serving/bootstrap.py in it.")
    return tree


def _unpack(file: Path, work: Path, screen: Screen) -> Path:
    # In this order: an archive whose last file is a wheel looks like one from its end.
    if tarfile.is_tarfile(file):
        return _unpack_bundle(file, work, screen)
    if zipfile.is_zipfile(file):
        return _unpack_wheel(file, work / "wheel")
    raise UsageError(f"{file} is neither a wheel nor a bundle. `deploy/install.sh --make-bundle` makes one.")


def _unpack_wheel(file: Path, tree: Path) -> Path:
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(tree)  # noqa: S202 - names that lead outside are cut by zipfile
    # What is installed outside of the packages lies where a source tree has it.
    for configs in tree.glob("*.data/data/share/onecard/configs"):
        configs.rename(tree / "configs")
    (tree / file.name).symlink_to(file.resolve())
    return tree


def _unpack_bundle(file: Path, work: Path, screen: Screen) -> Path:
    title, log = f"Unpacking {file.name}", work.parent / "upgrade.log"
    command = ("tar", "--extract", "--no-same-owner", "--file", str(file.resolve()))
    screen.begin(title)
    done = run(command, title, cwd=work, env=os.environ, log=log, screen=screen)
    if done.returncode:
        raise OnecardError(str(explain(file.name, done, log)))
    facts = next(work.glob(f"*/{FACTS}"), None)
    if facts is None:
        raise UsageError(
            f"{file} is no bundle: there is no {FACTS} in it. `deploy/install.sh --make-bundle` makes one."
        )
    return facts.parent / "source"


def _download(number: str, work: Path, screen: Screen) -> Path:
    """onecard's wheel alone; what it needs is fetched when it is installed."""
    python, log = work / "venv" / "bin" / "python", work.parent / "upgrade.log"
    title = f"onecard {number} from the package index"
    screen.begin(title)
    for command in (
        (sys.executable, "-m", "venv", str(work / "venv")),
        (
            str(python),
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            str(work),
            f"onecard=={number}",
        ),
    ):
        done = run(command, title, cwd=work, env=pip_environment(work), log=log, screen=screen)
        if done.returncode:
            raise NotInstalledError(str(explain(f"onecard {number}", done, log)))
    return next(work.glob("onecard-*.whl"))
