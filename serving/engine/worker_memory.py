"""What each part of the memory really takes, seen from inside vLLM's worker (`--worker-extension-cls`).

vLLM mixes this class into its GPU worker; its methods are called by name through `collective_rpc`. It measures, and changes
nothing but how torch's allocator takes memory; what the same parts were planned to take comes from planning/memory.py.
"""

import os
from typing import Any

# More than torch's allocator takes from segments that it has already.
_TRIED_BYTES = 64 * 2**20


class WorkerMemory:
    """The methods begin with `onecard_`: vLLM refuses an extension with names that its worker has already."""

    def onecard_expand_segments(self) -> bool:
        """Lets the allocator take what comes and goes from segments that grow (torch's `expandable_segments`), so that pictures
        of many sizes leave hardly any gaps. False where the driver cannot; then everything is as it was.

        To be called once all that lasts is there: while weights are repacked, growing segments hold GiB more for a moment,
        and keep gaps among them."""
        import torch
        from vllm.device_allocator.alloc_conf import (
            EXPANDABLE_SEGMENTS,
            current_alloc_conf,
            set_alloc_conf,
            with_conf_flag,
        )

        torch.cuda.empty_cache()
        configured = current_alloc_conf()
        set_alloc_conf(with_conf_flag(configured, EXPANDABLE_SEGMENTS, enabled=True))
        try:
            torch.empty(_TRIED_BYTES, dtype=torch.uint8, device="cuda")
        except RuntimeError:
            set_alloc_conf(configured)
            return False
        return True

    def onecard_memory(self) -> dict[str, int]:
        """Bytes of what lasts: `weights` (parameters and tables, a drafting head's too), `kv_cache`, `graph_pool` (the
        allocator's private pools) and the part of it that tensors hold (`graph_allocated`). Bytes of the whole: the
        allocator's `allocated`, `allocated_peak`, `reserved` and `reserved_peak`; and `process`, what this process holds
        according to the driver (0 where it does not tell, as in WSL2)."""
        import torch

        runner: Any = self.model_runner  # type: ignore[attr-defined]
        drafter = getattr(runner, "speculator", None) or getattr(runner, "drafter", None)
        held = [module for module in (runner.get_model(), getattr(drafter, "model", None)) if module is not None]
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        private = [s for s in torch.cuda.memory_snapshot() if tuple(s["segment_pool_id"]) != (0, 0)]
        return {
            "weights": sum(_storages([each for one in held for each in (*one.parameters(), *one.buffers())]).values()),
            "kv_cache": sum(_storages(runner.kv_caches).values()),
            "graph_pool": sum(segment["total_size"] for segment in private),
            "graph_allocated": sum(segment["allocated_size"] for segment in private),
            "allocated": stats["allocated_bytes.all.current"],
            "allocated_peak": stats["allocated_bytes.all.peak"],
            "reserved": stats["reserved_bytes.all.current"],
            "reserved_peak": stats["reserved_bytes.all.peak"],
            "process": _held_by_this_process(),
        }

    def onecard_held(self) -> dict[str, int]:
        """What is held now, cheap enough to ask while serving: the bytes `process`, `reserved`, `reserved_peak` and
        `allocated_peak` as in `onecard_memory`, and `given_back`, how often the allocator had to release its cached memory
        before an allocation fitted (`num_alloc_retries`)."""
        import torch

        stats = torch.cuda.memory_stats()
        return {
            "process": _held_by_this_process(),
            "reserved": stats["reserved_bytes.all.current"],
            "reserved_peak": stats["reserved_bytes.all.peak"],
            "allocated_peak": stats["allocated_bytes.all.peak"],
            "given_back": stats["num_alloc_retries"],
        }

    def onecard_transients(self) -> dict[str, int]:
        """Peak bytes of what is transient, by vLLM's own profiling run: `activations` (language model and sampler, in the
        longest step), and for the vision encoder `vision_encoder` (pixels included) and `encoder_output`, both for a batch of
        `profiled_tokens`. `encoder_tokens` is the largest batch that the scheduler can give it.

        To be called before the first request: it empties the encoder cache."""
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.multimodal import MULTIMODAL_REGISTRY
        from vllm.multimodal.encoder_budget import MultiModalBudget

        runner: Any = self.model_runner  # type: ignore[attr-defined]
        multimodal: Any = self.model_config.multimodal_config  # type: ignore[attr-defined]
        configured = multimodal.skip_mm_profiling
        encoder = _PeakOf(runner.get_model().visual)
        # As vLLM profiles: without it, every layer's values would be kept for a gradient.
        with torch.inference_mode(), set_current_vllm_config(self.vllm_config):  # type: ignore[attr-defined]
            try:
                multimodal.skip_mm_profiling = True
                activations = _peak(runner.profile_run)
                multimodal.skip_mm_profiling = False
                runner.profile_run()
            finally:
                multimodal.skip_mm_profiling = configured
                encoder.remove()
        torch.cuda.synchronize()
        budget = MultiModalBudget(self.vllm_config, MULTIMODAL_REGISTRY)  # type: ignore[attr-defined]
        items = budget.mm_max_items_per_batch
        return {
            "activations": activations,
            "vision_encoder": encoder.peak + encoder.input,
            "encoder_output": encoder.output,
            "encoder_tokens": budget.get_encoder_budget(),
            "profiled_tokens": sum(items[kind] * tokens for kind, tokens in budget.mm_max_toks_per_item.items()),
        }


class _PeakOf:
    """Bytes that a module's forward allocates at most over what was there when it began, by the allocator's own peak; and
    of its first argument and its output."""

    def __init__(self, module: Any) -> None:
        self.peak = self.input = self.output = 0
        self._before = 0
        self._handles = (module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, _module: Any, arguments: Any) -> None:
        import torch

        self.input = arguments[0].nbytes if arguments else 0
        self._before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    def _end(self, _module: Any, _arguments: Any, output: Any) -> None:
        import torch

        self.peak = max(self.peak, torch.cuda.max_memory_allocated() - self._before)
        self.output = output.nbytes


def _peak(run: Any) -> int:
    import torch

    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def _held_by_this_process() -> int:
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return 0
    return int(sum(each.usedGpuMemory or 0 for each in processes if each.pid == os.getpid()))


def _storages(tensors: Any) -> dict[int, int]:
    """Bytes of each storage by its address, so that tensors that share one are counted once."""
    found: dict[int, int] = {}
    for tensor in tensors:
        if isinstance(tensor, (list, tuple)):
            found |= _storages(tensor)
        else:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found
