"""llm-compressor's sequential pipeline, that can be interrupted: what a layer came to is kept in a file, and a second run
goes through the layers that have one without calibrating them again.

Runs in the worker's environment. The steps are those of `llmcompressor.pipelines.sequential` (0.14): each part of the model
is run twice, once for the modifiers' hooks and once, quantized, for the activations that the next part gets.
"""

import contextlib
import time
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.offload import disable_offloading, set_onload_device
from compressed_tensors.utils import update_offload_parameter
from llmcompressor.core import LifecycleCallbacks, active_session
from llmcompressor.modifiers.utils.hooks import HooksMixin
from llmcompressor.pipelines.cache import IntermediatesCache
from llmcompressor.pipelines.registry import CalibrationPipeline
from llmcompressor.pipelines.sequential.helpers import handle_sequential_oom, trace_subgraphs
from llmcompressor.utils.helpers import DisableQuantization, calibration_forward_context
from safetensors.torch import load_file, save_file

from serving.quantize.job import say

NAME = "onecard"
# llm-compressor calls a pipeline with its own arguments only.
_folder: list[Path] = []


def keep_layers_in(folder: Path) -> None:
    """Where finished layers are kept from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    _folder[:] = [folder]


@CalibrationPipeline.register(NAME)
class ResumablePipeline(CalibrationPipeline):  # type: ignore[misc]
    @staticmethod
    @handle_sequential_oom  # type: ignore[untyped-decorator]
    def __call__(model: torch.nn.Module, dataloader: Any, dataset_args: Any) -> None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
        set_onload_device(model, device)
        targets = list(dataset_args.sequential_targets)
        parts = trace_subgraphs(
            model,
            next(iter(dataloader)),
            targets,
            dataset_args.tracing_ignore,
            dataset_args.sequential_targets_per_subgraph,
        )
        names = _names_in(model, targets)
        session = active_session()
        LifecycleCallbacks.calibration_start()
        with contextlib.ExitStack() as stack:
            stack.enter_context(calibration_forward_context(model))
            stack.enter_context(DisableQuantization(model))
            cache = IntermediatesCache.from_dataloader(dataloader, device, torch.device("cpu"))
            session.state.loss_masks = None
            session.state.sequential_prefetch = False
            for index, part in enumerate(parts):
                began = time.monotonic()
                modules = part.submodules(model)
                file = _folder[0] / f"part-{index:03}.safetensors"
                kept = file.exists()
                with disable_offloading():
                    if kept:
                        _restore(modules, names, load_file(file))
                    else:
                        for batch in range(len(dataloader)):
                            session.state.current_batch_idx = batch
                            part.forward(model, **cache.fetch(batch, part.input_names))
                        LifecycleCallbacks.sequential_epoch_end(modules)
                        _keep(modules, names, file)
                    with HooksMixin.disable_hooks():
                        for batch in range(len(dataloader)):
                            output = part.forward(model, **cache.fetch(batch, part.input_names))
                            if index < len(parts) - 1:
                                cache.update(batch, output)
                                cache.delete(batch, part.consumed_names)
                say("layer", index + 1, len(parts), kept=kept, seconds=round(time.monotonic() - began, 1))
            LifecycleCallbacks.calibration_end()


def _names_in(model: torch.nn.Module, targets: list[str]) -> dict[torch.nn.Module, str]:
    """The modules inside the layers that are calibrated: the first part also runs the vision encoder, which stays as it is."""
    layers = [name for name, module in model.named_modules() if type(module).__name__ in targets]
    return {
        module: name
        for name, module in model.named_modules()
        if any(name == layer or name.startswith(f"{layer}.") for layer in layers)
    }


def _keep(modules: set[torch.nn.Module], names: dict[torch.nn.Module, str], file: Path) -> None:
    tensors = {
        f"{names[module]}:{key}": value.detach().cpu().contiguous().clone()
        for module in modules
        if module in names
        for key, value in module.named_parameters(recurse=False)
    }
    new = file.with_suffix(".new")
    save_file(tensors, new)
    new.replace(file)


def _restore(
    modules: set[torch.nn.Module], names: dict[torch.nn.Module, str], tensors: dict[str, torch.Tensor]
) -> None:
    for module in modules:
        for key, _ in list(module.named_parameters(recurse=False)):
            if (value := tensors.get(f"{names.get(module, '')}:{key}")) is not None:
                update_offload_parameter(module, key, value)
