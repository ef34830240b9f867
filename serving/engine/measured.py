"""What the parts of the memory really took, by the plan's names, as the worker measured it before the first request."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

from serving.errors import EngineArgsError
from serving.planning.calibration import learn_from_start
from serving.planning.memory import MIB
from serving.planning.plan import Plan

logger = logging.getLogger("vllm.onecard")
_ASKED_S = 1.0
# Only its log says what vLLM's CUDA graphs took, the driver's memory included.
_GRAPHS = re.compile(r"Graph capturing finished in .* took ([\d.]+) GiB")
# That figure is the whole device's, before and after, so it includes what other programs took meanwhile. It is bounded by
# this: no CUDA context is smaller.
_LEAST_CONTEXT = 200 * MIB


async def measure_and_learn(application: Any, plan: Plan, server_log: Path) -> dict[str, Any]:
    """`memory_mib` by the plan's names, if the engine of vLLM's `application` runs our worker extension; else empty. Later
    plans for this card learn from it (planning/calibration.py).

    Raises EngineArgsError if one step may send more through the vision encoder than was planned."""
    if "worker_extension_cls" not in plan.engine_args:
        return {}
    engine = application.state.engine_client
    if plan.expandable_segments and not (await engine.collective_rpc("onecard_expand_segments"))[0]:
        logger.warning(
            "torch's allocator cannot let its segments grow on this card: pictures of many sizes leave gaps in its memory that "
            "are not planned. Start with PYTORCH_ALLOC_CONF=expandable_segments:False, and the plan counts them."
        )
    transients = (await engine.collective_rpc("onecard_transients"))[0]
    lasting = (await engine.collective_rpc("onecard_memory"))[0]
    if plan.predicted and transients["encoder_tokens"] > plan.capacity.encoder_tokens:
        raise EngineArgsError(
            f"vLLM gives its vision encoder up to {transients['encoder_tokens']:,} tokens a step, and memory is planned for "
            f"{plan.capacity.encoder_tokens:,}: this vLLM does not obey the picture size that the plan sets."
        )
    found = _GRAPHS.findall(server_log.read_text(errors="replace")) if server_log.is_file() else []
    parts = in_parts(lasting, transients, round(float(found[-1]) * 2**30) if found else None)
    # Drafting is not measured separately: constants learned with it would be wrong without it.
    if plan.predicted and plan.tensor_parallel_size == 1 and plan.speculation is None:
        learn_from_start(plan, parts)
    return {"memory_mib": parts}


async def held_now(application: Any, plan: Plan) -> dict[str, int]:
    """`held_mib` and `given_back`, as `WorkerMemory.onecard_held` has them. Empty if no such worker runs, or none answers
    within a second: a request for the status must not wait for an engine that hangs."""
    if "worker_extension_cls" not in plan.engine_args:
        return {}
    try:
        found = (await asyncio.wait_for(application.state.engine_client.collective_rpc("onecard_held"), _ASKED_S))[0]
    except Exception:  # a dying engine raises anything; the status says elsewhere that it is dying
        logger.debug("the worker did not say what it holds", exc_info=True)
        return {}
    given_back = found.pop("given_back")
    return {"held_mib": {name: round(value / MIB) for name, value in found.items()}, "given_back": given_back}


def fragments(lasting: dict[str, int]) -> int:
    """Bytes that the allocator held at most beyond what was in use at most; without what the graphs' pools keep free for the
    next replay, which is theirs."""
    pool = lasting["graph_pool"]
    return lasting["reserved_peak"] - lasting["allocated_peak"] - (pool - lasting.get("graph_allocated", pool))


def in_parts(lasting: dict[str, int], transients: dict[str, int], graphs: int | None) -> dict[str, int]:
    """MiB by the plan's names. `graphs` is the number of bytes that vLLM says its CUDA graphs took; None if it captured none.

    The process holds more than torch's allocator: the difference is the driver's, for context and graphs."""
    pool, process = lasting["graph_pool"], lasting["process"]
    graphs = pool if graphs is None else graphs
    if process:
        graphs = max(pool, min(graphs, pool + process - lasting["reserved"] - _LEAST_CONTEXT))
    # vLLM profiles as many of the largest pictures as fit the budget; a full budget takes proportionally more.
    full = transients["encoder_tokens"] / max(1, transients["profiled_tokens"])
    cache = round(transients["encoder_output"] * full)
    seeing = round(transients["vision_encoder"] * full)
    found = {
        "weights": lasting["weights"],
        "kv_cache": lasting["kv_cache"],
        "buffers": lasting["allocated"]
        - lasting["weights"]
        - lasting["kv_cache"]
        - lasting.get("graph_allocated", pool),
        "activations": transients["activations"],
        "encoder_cache": cache,
        "vision_encoder": max(0, seeing - cache - transients["activations"]),
        "cuda_graphs": graphs,
        "fragmentation": fragments(lasting),
    }
    if process:
        found["context"] = process - lasting["reserved"] - (graphs - pool)
    return {name: round(value / MIB) for name, value in found.items()}
