"""Lets a torchvision that was built for CUDA be imported beside a CPU build of torch. Idle everywhere else.

PyTorch publishes CPU builds on its own index only; a machine that reaches nothing but PyPI (or a mirror of it) gets
torchvision's CUDA build, whose C++ operators do not load on CPU torch. `import torchvision` then dies with "operator
torchvision::nms does not exist", because it attaches Python parts to two operators that were never declared. transformers
and vLLM need torchvision's resizing, which is plain torch, and none of these operators.

So, right after `torchvision.extension` has tried to load the operators and only if it could not, this module declares the
two. Whoever calls one is told why it is missing; nothing is silently answered.

`python -m serving.cpu` copies this file into site-packages, together with a `.pth` line that imports it, since it must
work in every process, vLLM's subprocesses included, before anyone else's code runs. It therefore runs at every start of
the interpreter: standard library only, nothing imported until torchvision is.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, NoReturn

WATCHED = "torchvision.extension"
"""The module in which torchvision loads its operators, before anything of it uses them."""

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
REASON = (
    "torchvision's C++ operators (nms and the like) are not available here: this is a CUDA build of "
    "torchvision beside a CPU build of torch, imported with the help of onecard's shim, which serves image resizing only. "
    "To get the operators: pip install --force-reinstall --no-deps torchvision "
    "--index-url https://download.pytorch.org/whl/cpu"
)

_alive: "list[Any]" = []  # a torch Library takes its operators along when it is collected


def refuse(*_args: object, **_kwargs: object) -> "NoReturn":
    raise RuntimeError(REASON)


def declare_operators(extension: "ModuleType") -> None:
    """Declares the operators that torchvision's import asks for, and makes every operator name the reason when called."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(name + SCHEMA)
        library.impl(name, refuse, "CPU")
    _alive.append(library)
    extension._assert_has_ops = refuse  # type: ignore[attr-defined]  # torchvision.ops calls it first, in every operator


class _LoaderThenShim:
    """The loader of `torchvision.extension`, with one step after it."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)

    def exec_module(self, module: "ModuleType") -> None:
        self._loader.exec_module(module)
        if not module._has_ops():
            declare_operators(module)


class Finder:
    """Answers for one module name; every other import passes it at the cost of a string comparison."""

    @staticmethod
    def find_spec(
        fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if fullname != WATCHED:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoaderThenShim(spec.loader)  # type: ignore[assignment]
        return spec


def install() -> None:
    """Puts the finder first in line; called by the `.pth` line."""
    sys.meta_path.insert(0, Finder)
