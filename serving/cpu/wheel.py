"""A wheel of a few files, written by hand: what setuptools has no setting for, or would take too long over."""

import zipfile
from pathlib import Path


def write_wheel(folder: Path, distribution: str, version: str, files: dict[str, str], metadata: str = "") -> Path:
    """A pure-Python wheel of these files (path → text) in `folder`; `metadata` is further lines of METADATA."""
    name = distribution.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: onecard\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for each, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(each, text)
    return wheel
