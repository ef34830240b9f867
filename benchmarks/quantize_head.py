"""The part of `quantize` that times the output head by itself: one token, by vLLM's own linear layers."""

import statistics
import tempfile
import time
from typing import Any

from serving.quantize.scheme import load_scheme

_CALLS = 50


def head_times(rows: int = 151_936, width: int = 2048, device: str | None = None) -> dict[str, Any]:
    """`microseconds` of one token through the output head, by vLLM's own linear layers: 16 bits, and each kind of 8; of so many
    `calls` in a row."""
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.layers.linear import ReplicatedLinear
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    schemes = ("awq-head8", "awq-head8-a8") if where == "cuda" else ("awq-head8-a8",)
    found = {}
    with set_current_vllm_config(VllmConfig()), tempfile.NamedTemporaryFile() as meeting:
        init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "nccl" if where == "cuda" else "gloo")
        initialize_model_parallel(1, 1)
        for name in ("16 bits", *schemes):
            head = None if name == "16 bits" else load_scheme(name).head
            group = head.group() if head else None
            quantization = (
                CompressedTensorsConfig.from_config(
                    {"config_groups": {"head": group}, "format": group["format"], "ignore": []}
                )
                if group
                else None
            )
            with torch.device(where):
                layer = ReplicatedLinear(
                    width, rows, bias=False, params_dtype=torch.bfloat16, quant_config=quantization, prefix="lm_head"
                )
            for key, parameter in layer.named_parameters():
                if parameter.dtype.is_floating_point:
                    parameter.data.fill_(0.01)
                elif not key.endswith("shape"):
                    parameter.data.random_(0, 100)
            layer.quant_method.process_weights_after_loading(layer)
            found[name] = _microseconds(layer, torch.randn(1, width, dtype=torch.bfloat16, device=where))
    return {"calls": _CALLS, "microseconds": found}


def _microseconds(layer: Any, row: Any) -> float:
    """One token's, of so many calls in a row, which the GPU works off without a pause: the median of ten such rows. A head is
    larger than any cache, so each call reads it anew."""
    import torch

    times = []
    for _ in range(12):
        began = time.perf_counter()
        for _ in range(_CALLS):
            layer(row)
        if row.is_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / _CALLS)
    return round(statistics.median(times[2:]) * 1e6, 1)
