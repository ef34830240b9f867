"""Setup: what it decides from given facts, and how it reads pip. No installation here: see test_bootstrap_runs.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from serving.errors import ConfigError, DiskFullError, HardwareError, NotInstalledError
from serving.setup.choose import check_disk, choose_variant, driver_branch, profile_device, warnings
from serving.setup.environment import Stamp, half_installed, is_up_to_date, steps_for
from serving.setup.machine import Gpu, Machine
from serving.setup.pip import Activity, Done, explain
from serving.setup.project import cpu_pins, project_digest

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "configs" / "profiles"
RTX3060 = Gpu(names=("NVIDIA GeForce RTX 3060",), driver="580.95.05", cards=1)
PLAIN = Machine(gpu=Gpu(), memory_mib=24_000, wsl=False, windows_mount=False, compiler=True, python_headers=True)


@pytest.mark.parametrize(("version", "branch"), [("580.95.05", 580), ("535.183.01", 535), ("610.1", 610), ("", 0)])
def test_branch_is_the_first_number_of_the_driver(version: str, branch: int) -> None:
    assert driver_branch(version) == branch


def test_auto_takes_the_gpu_that_is_there_and_the_cpu_where_there_is_none() -> None:
    assert choose_variant("auto", "auto", RTX3060) == "gpu"
    assert choose_variant("auto", "auto", Gpu()) == "cpu"


def test_the_cpu_profile_asks_nothing_of_the_gpu() -> None:
    assert choose_variant("cpu", "cpu", replace(RTX3060, driver="390.1")) == "cpu"


def test_a_gpu_profile_without_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(HardwareError, match=r"rtx3060 needs an NVIDIA GPU.*none was found.*PROFILE=cpu") as refusal:
        choose_variant("rtx3060", "cuda", Gpu())
    assert refusal.value.exit_code == 7


@pytest.mark.parametrize("profile", ["auto", "rtx3060"])
def test_an_old_driver_is_refused_with_both_versions_and_the_ways_out(profile: str) -> None:
    device = "auto" if profile == "auto" else "cuda"
    with pytest.raises(HardwareError, match=r"580 or newer.*runs with 535\.183\.01.*ubuntu-drivers.*PROFILE=cpu"):
        choose_variant(profile, device, replace(RTX3060, driver="535.183.01"))  # type: ignore[arg-type]


def test_in_wsl2_the_driver_to_update_is_the_one_of_windows() -> None:
    with pytest.raises(HardwareError, match="driver in Windows"):
        choose_variant("auto", "auto", replace(RTX3060, driver="535.1"), wsl=True)


def test_a_card_without_a_driver_names_the_driver() -> None:
    with pytest.raises(HardwareError, match="no driver for it"):
        choose_variant("rtx3060", "cuda", Gpu(cards=1))
    assert choose_variant("auto", "auto", Gpu(cards=1)) == "cpu"
    assert "without a working driver" in " ".join(warnings("cpu", replace(PLAIN, gpu=Gpu(cards=1))))


def test_a_driver_that_does_not_start_is_named_in_its_own_words() -> None:
    with pytest.raises(HardwareError, match=r"Driver/library version mismatch.*reboot"):
        choose_variant("auto", "auto", Gpu(driver="580.1", cards=1, trouble="Driver/library version mismatch"))


def test_every_shipped_profile_is_known_by_each_of_its_names() -> None:
    for path in PROFILES.glob("*.yaml"):
        profile = yaml.safe_load(path.read_text())
        for name in (path.stem, *profile.get("aliases", ())):
            assert profile_device(name, PROFILES) == profile["device"]


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean rtx3060"):
        profile_device("rtx306", PROFILES)
    with pytest.raises(ConfigError, match="Did you mean rtx3060"):
        profile_device("rtx3600", PROFILES)
    with pytest.raises(ConfigError, match="no profile file"):
        profile_device("mine.yaml", PROFILES)


def test_a_profile_file_of_ones_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("title: mine\ndevice: cpu\n")
    assert profile_device(str(tmp_path / "mine.yaml"), PROFILES) == "cpu"


def test_disk_counts_what_is_installed_already(tmp_path: Path) -> None:
    check_disk("cpu", 2_000, 3_500, tmp_path)
    with pytest.raises(DiskFullError, match=r"2\.0 GB are free"):
        check_disk("cpu", 2_000, 0, tmp_path)


def test_wsl2_on_a_windows_drive_with_little_memory_is_warned_twice() -> None:
    said = " ".join(warnings("gpu", replace(PLAIN, wsl=True, windows_mount=True, memory_mib=8_000, gpu=RTX3060)))
    assert "Windows drive" in said
    assert ".wslconfig" in said
    assert not list(warnings("cpu", PLAIN))


def test_a_stamp_survives_the_disk_and_a_torn_one_counts_as_none(tmp_path: Path) -> None:
    stamp = Stamp(root="/r", variant="cpu", project="p", extras=("dev",), done=("venv", "pip"), running="torch")
    stamp.write(tmp_path)
    assert Stamp.read(tmp_path) == stamp
    (tmp_path / "onecard-setup.json").write_text('{"root": "/r", "vari')
    assert Stamp.read(tmp_path) == Stamp()


def finished(venv: Path) -> Stamp:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    return Stamp(root="/r", variant="cpu", project="p", extras=("dev",), done=steps_for("cpu"))


@pytest.mark.parametrize(
    "change",
    [{"root": "/moved"}, {"variant": "gpu"}, {"project": "other"}, {"gpu_signs": "/dev/nvidiactl"}, {"extras": ("x",)}],
)
def test_whatever_changes_what_is_wanted_ends_up_to_date(tmp_path: Path, change: dict[str, str]) -> None:
    stamp = finished(tmp_path)
    assert is_up_to_date(stamp, tmp_path, replace(stamp, extras=()))
    assert not is_up_to_date(stamp, tmp_path, replace(stamp, **change))


def test_an_unfinished_environment_is_not_up_to_date(tmp_path: Path) -> None:
    stamp = finished(tmp_path)
    assert not is_up_to_date(replace(stamp, done=stamp.done[:-1]), tmp_path, stamp)
    assert not is_up_to_date(replace(stamp, running="packages"), tmp_path, stamp)
    (tmp_path / "bin" / "python").unlink()
    assert not is_up_to_date(stamp, tmp_path, stamp)


def test_only_what_is_installed_changes_the_digest(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n[tool.ruff]\nline-length = 1\n')
    before = project_digest(tmp_path)
    project.write_text('[project]\nname = "x"\n[tool.ruff]\nline-length = 2\n')
    assert project_digest(tmp_path) == before
    project.write_text('[project]\nname = "x"\ndependencies = ["y"]\n')
    assert project_digest(tmp_path) != before


def test_packages_that_pip_never_finished_are_found(tmp_path: Path) -> None:
    for name in ("whole-1.dist-info", "torn-1.dist-info", "~ld"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole-1.dist-info" / "INSTALLER").write_text("pip\n")
    assert {path.name for path in half_installed(tmp_path)} == {"torn-1.dist-info", "~ld"}


def test_torch_is_only_ever_asked_for_as_a_cpu_build() -> None:
    pins = cpu_pins(ROOT)
    assert [pin.partition("==")[0] for pin in pins] == ["torch", "torchvision"]
    assert all(pin.endswith("+cpu") for pin in pins)


@pytest.mark.parametrize(
    ("line", "doing"),
    [
        ("Collecting mcp-types (from vllm)", "looking up mcp-types"),
        ("  Downloading triton-3.9.0-cp311-cp311-linux_x86_64.whl (285.8 MB)", "downloading triton 285.8 MB"),
        ("Installing collected packages: a, b, c", "installing 3 package(s)"),
        ("WARNING: Retrying (Retry(total=1)) after connection broken", "the connection broke, trying again"),
    ],
)
def test_pips_words_become_an_activity(line: str, doing: str) -> None:
    activity = Activity()
    activity.feed(line)
    assert activity.doing == doing


def test_a_download_tells_how_far_it_is() -> None:
    activity = Activity()
    activity.feed("  Downloading torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl (191.8 MB)")
    activity.feed("Progress 96000000 of 192000000")
    assert activity.doing == "downloading torch 96 of 192 MB"
    assert len(activity.tail) == 1


@pytest.mark.parametrize(
    ("done", "kind", "says"),
    [
        (
            Done(1, ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left",)),
            DiskFullError,
            "full",
        ),
        (Done(1, ("error: incomplete-download",), least_free_mib=3), DiskFullError, "full"),
        (Done(1, ("WARNING: Retrying after connection broken by X", "ERROR: none")), NotInstalledError, "not reach"),
        (Done(1, ("ERROR: No matching distribution found for vllm", "hint")), NotInstalledError, "said: No matching"),
    ],
)
def test_a_failure_of_pip_is_explained(done: Done, kind: type[Exception], says: str) -> None:
    error = explain("vLLM", done, Path("setup.log"))
    assert type(error) is kind
    assert says in str(error)
    assert "\n" not in str(error)
