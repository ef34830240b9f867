"""Known vulnerabilities against what is installed, and against what pyproject.toml lets be installed."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from serving import advisories, doctor
from serving.advisories import ADVISORIES, Advisory, installed, open_here

ROOT = Path(__file__).parents[2]


def test_nothing_that_is_known_is_open_here() -> None:
    assert open_here() == []
    assert doctor._advisories().state == "good"


def test_an_old_version_is_broken_with_the_advisory_and_the_version_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(advisories, "installed", lambda _package: Version("0.0.26"))
    names = {each.name for each in open_here()}
    assert "CVE-2026-42561" in names
    assert "CVE-2026-40347" not in names
    check = doctor._advisories()
    assert (check.state, "CVE-2026-48710" in check.found) == ("broken", True)
    assert "'starlette>=1.0.1'" in check.mend  # the highest of its four
    assert "'python-multipart>=0.0.27'" in check.mend


def test_vllm_is_found_under_either_of_its_names() -> None:
    assert installed("vllm") is not None
    assert installed("no-such-package") is None


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    words = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    return {each.name: each for each in map(Requirement, words)}


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda each: each.name)
def test_no_version_with_it_can_be_installed(advisory: Advisory) -> None:
    """Of what this project asks for itself; the rest comes with vLLM, and is the doctor's to look at."""
    if needed := requirements().get(advisory.package):
        (least,) = (Version(each.version) for each in needed.specifier if each.operator == ">=")
        assert least >= Version(advisory.mended_in)
