"""The torchvision shim, in real interpreters with the real torch."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving.cpu.__main__ import broken_imports, build_wheel

# A torchvision that does what the real one does at import, with operators (True) or without (False).
EXTENSION = "import torch\ndef _has_ops(): return {has_ops}\ndef _assert_has_ops(): print('operators checked')\n"
IMPORT = """
from . import extension
import torch
if not extension._has_ops():
    torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
"""


def python(script: str, *folders: Path) -> str:
    """What `script` prints in a fresh interpreter for which `folders` are site-packages, .pth files included."""
    prepare = "import site, sys\n" + "".join(
        f"sys.path.insert(0, {str(f)!r}); site.addsitedir({str(f)!r})\n" for f in folders
    )
    done = subprocess.run([sys.executable, "-c", prepare + script], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site-packages folder with nothing but the shim's wheel."""
    folder = tmp_path / "site"
    zipfile.ZipFile(build_wheel(tmp_path)).extractall(folder)
    return folder


def stand_in(folder: Path, *, has_ops: bool) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(IMPORT)
    (folder / "torchvision" / "extension.py").write_text(EXTENSION.format(has_ops=has_ops))
    return folder


def test_torchvision_without_operators_can_be_imported_and_says_why_they_are_missing(
    site: Path, tmp_path: Path
) -> None:
    said = python(
        "import torch, torchvision\n"
        "for call in (torch.ops.torchvision.nms, torch.ops.torchvision.qnms, torchvision.extension._assert_has_ops):\n"
        "    try: print('answered', call(torch.zeros(1, 4), torch.zeros(1), 0.5))\n"
        "    except RuntimeError as error: print(error)\n",
        site,
        stand_in(tmp_path, has_ops=False),
    )
    assert said.count("CUDA build of torchvision beside a CPU build of torch") == 3, said
    assert "answered" not in said


def test_the_shim_is_idle_where_the_operators_load(site: Path, tmp_path: Path) -> None:
    said = python(
        "import torch, torchvision\n"
        "torchvision.extension._assert_has_ops()\n"
        "print('declared' if hasattr(torch.ops.torchvision, 'nms') else 'not declared')\n",
        site,
        stand_in(tmp_path, has_ops=True),
    )
    assert said.splitlines() == ["operators checked", "not declared"]


def test_a_process_that_never_imports_torchvision_does_not_import_torch(site: Path) -> None:
    said = python("print('onecard_torchvision_shim' in sys.modules, 'torch' in sys.modules)", site)
    assert said == "True False\n"


@pytest.mark.long
def test_the_real_torchvision_works_in_this_environment() -> None:
    """That vLLM can use it is shown by every picture which the real server answers; here also what of it vLLM does not use."""
    assert broken_imports("torchvision", "torchaudio", "torchcodec") == {}
    said = python(
        "import torch, torchvision\n"
        "from transformers import Qwen2VLImageProcessor\n"
        "from torchvision.transforms.v2 import functional\n"
        "print(tuple(functional.resize(torch.zeros(3, 64, 64), [32, 32]).shape))\n"
        "try: print(torchvision.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5).tolist())\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert "(3, 32, 32)" in said
    assert "[0]" in said or "CUDA build of torchvision beside a CPU build of torch" in said
