"""`python -m serving.cpu`: mends what pip brought for CUDA into an environment without it, the one that runs this.

torchaudio and torchcodec are removed where they cannot be imported: nothing here uses them, and transformers trips over
the pair when it finds them. torchvision is needed, so where its import fails, `torchvision_shim.py` is packed into a wheel
and installed: pip knows it then (`pip list`) and takes it away again (`pip uninstall onecard-torchvision-shim`).
Where the CPU builds of all three are installed, this does nothing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from serving import __version__
from serving.cpu.wheel import write_wheel

DISTRIBUTION = "onecard-torchvision-shim"
MODULE = "onecard_torchvision_shim"
PTH = f"import {MODULE}; {MODULE}.install()\n"
PROBE = """
import importlib, importlib.util, json, sys
broken = {}
for name in sys.argv[1:]:
    try:
        importlib.util.find_spec(name) and importlib.import_module(name)
    except Exception as error:
        broken[name] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(broken))
"""


def build_wheel(folder: Path) -> Path:
    """Writes the shim's wheel into `folder`; setuptools has no setting that places a .pth file."""
    files = {
        f"{MODULE}.py": (Path(__file__).parent / "torchvision_shim.py").read_text("utf-8"),
        f"{MODULE}.pth": PTH,
    }
    about = "License: Apache-2.0\nSummary: Lets a CUDA build of torchvision be imported beside a CPU build of torch\n"
    return write_wheel(folder, DISTRIBUTION, __version__, files, about)


def broken_imports(*names: str) -> dict[str, str]:
    """Which of the packages are installed and cannot be imported in a fresh interpreter, each with its reason."""
    probe = [sys.executable, "-c", PROBE, *names]
    done = subprocess.run(probe, stdout=subprocess.PIPE, text=True, check=True)
    reasons: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return reasons


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


def main() -> int:
    broken = broken_imports("torchaudio", "torchcodec", "torchvision")
    if unused := [name for name in broken if name != "torchvision"]:
        pip("uninstall", "--yes", *unused)
    if "torchvision" not in broken:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        pip("install", "--no-deps", "--no-index", "--force-reinstall", str(build_wheel(Path(folder))))
    if still := broken_imports("torchvision"):
        sys.stderr.write(f"ERROR: torchvision cannot be imported, even with the shim: {still['torchvision']}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
