"""What this machine has that decides the installation. Facts only; `choose.py` draws the conclusions."""

import ctypes
import os
import re
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

NVML_LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
NVML_SUCCESS = 0
NVML_TEXT_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE; the driver version needs 80


@dataclass(frozen=True)
class Gpu:
    """NVIDIA's side of the machine. `names` and `driver` come from the driver, `cards` from the PCI bus without it."""

    names: tuple[str, ...] = ()
    driver: str = ""
    """The driver's version, such as "580.95.05"; empty where no driver answers."""
    cards: int = 0
    trouble: str = ""
    """NVML's own words when it is there but does not start ("Driver/library version mismatch")."""


@dataclass(frozen=True)
class Machine:
    gpu: Gpu
    memory_mib: int
    wsl: bool
    windows_mount: bool
    """The checkout lies on a Windows drive that WSL2 shows through its slow file server."""
    compiler: bool
    python_headers: bool


def gpu_signs() -> str:
    """What can be seen of an NVIDIA driver without asking it (which takes up to seconds): changes when one appears."""
    return " ".join(
        path for path in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version") if os.path.exists(path)
    )


def read_gpu() -> Gpu:
    cards = _pci_cards()
    for library in NVML_LIBRARIES:
        try:
            nvml = ctypes.CDLL(library)
        except OSError:
            continue
        return _ask_nvml(nvml, cards)
    return Gpu(driver=_driver_of_kernel(), cards=cards)


def _ask_nvml(nvml: ctypes.CDLL, cards: int) -> Gpu:
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    code = nvml.nvmlInit_v2()
    if code != NVML_SUCCESS:
        return Gpu(driver=_driver_of_kernel(), cards=cards, trouble=nvml.nvmlErrorString(code).decode())
    try:
        text = ctypes.create_string_buffer(NVML_TEXT_BYTES)
        nvml.nvmlSystemGetDriverVersion(text, NVML_TEXT_BYTES)
        driver = text.value.decode()
        count = ctypes.c_uint(0)
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        names = []
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == NVML_SUCCESS:
                nvml.nvmlDeviceGetName(handle, text, NVML_TEXT_BYTES)
                names.append(text.value.decode())
        return Gpu(names=tuple(names), driver=driver, cards=max(cards, len(names)))
    finally:
        nvml.nvmlShutdown()


def _driver_of_kernel() -> str:
    """The loaded kernel module's version. Its first line is "NVRM version: NVIDIA UNIX ... Kernel Module  580.95.05 ..."."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"Module\D*?(?:for x86_64\s+)?(\d+\.\d+(?:\.\d+)?)", text)
    return found.group(1) if found else ""


def _pci_cards() -> int:
    """NVIDIA display controllers on the PCI bus (vendor 0x10de, class 0x03....), with or without a driver."""
    count = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def read_machine(root: Path) -> Machine:
    wsl = "microsoft" in _text("/proc/sys/kernel/osrelease").lower()
    total = re.search(r"MemTotal:\s+(\d+) kB", _text("/proc/meminfo"))
    return Machine(
        gpu=read_gpu(),
        memory_mib=int(total.group(1)) // 1024 if total else 0,
        wsl=wsl,
        windows_mount=wsl and re.match(r"/mnt/[a-z](/|$)", str(root)) is not None,
        compiler=any(shutil.which(name) for name in ("gcc", "cc", "clang")),
        python_headers=Path(sysconfig.get_path("include"), "Python.h").exists(),
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def used_mib(folder: Path) -> int:
    """MiB that the files below `folder` take; 0 where it is missing."""
    return (
        sum(os.lstat(os.path.join(path, name)).st_blocks for path, _, names in os.walk(folder) for name in names)
        // 2048
    )


def free_mib(path: Path) -> int:
    """MiB free on the file system that holds `path`, or its nearest ancestor that exists."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // 2**20
