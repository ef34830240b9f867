"""Plans and profiles in words for a terminal. JSON is for machines; this is for people."""

import json
from collections.abc import Iterator
from typing import Any

from serving.planning.advice import Step, steps
from serving.planning.plan import Plan, PlannedSpeculation
from serving.planning.planner import Subject
from serving.planning.profile import load_models, load_profiles
from serving.planning.verdict import QUESTION_TOKENS
from serving.planning.video import EXAMPLE_PIXELS, Frames

_BAR = 44
_NAMES = {
    "weights": "weights",
    "buffers": "buffers",
    "activations": "activations",
    "vision_encoder": "vision encoder",
    "encoder_cache": "encoder cache",
    "logits": "logits",
    "cuda_graphs": "CUDA graphs",
    "context": "context",
    "fragmentation": "fragmentation",
    "headroom": "headroom",
    "kv_cache": "KV cache",
}
_PHOTO_PIXELS = 1024 * 768


def describe_plan(plan: Plan) -> str:
    """The memory, then a sentence for each choice, or why it does not fit."""
    return "\n".join((describe_memory(plan), *(_choices(plan) if plan.fits else [why_not(plan)])))


def describe_memory(plan: Plan) -> str:
    """The memory as a picture and a table."""
    memory = plan.memory_mib
    lines = [
        f"{plan.model} ({plan.precision}) on {plan.gpu.name}, profile {plan.profile}: "
        f"{memory.total:,} of {plan.gpu.usable_mib:,} MiB planned, {plan.gpu.total_mib:,} in all"
    ]
    for key, title in _NAMES.items():
        mib = getattr(memory, key)
        share = round(_BAR * mib / max(1, plan.gpu.usable_mib, memory.total))
        lines.append(f"  {title:<15}{mib:>8,} MiB  {'█' * share or '▏'}")
    return "\n".join(lines)


def why_not(plan: Plan) -> str:
    """Why a plan does not fit, and what would."""
    said = f"{plan.model} does not fit with the profile `{plan.profile}`: {plan.reason}."
    if plan.gpu.taken_mib:
        said += f" Closing what holds {plan.gpu.taken_mib:,} MiB of the card may be enough: nvidia-smi lists it"
        sleeps = (
            f", and `onecard sleep --port {each.port}` gives back what that one holds" for each in plan.gpu.onecards
        )
        said += "".join(sleeps) + "."
    if plan.alternatives:
        return "\n".join((said, "What would fit:", *(f"  {each}" for each in plan.alternatives)))
    return (
        f"{said} Nothing that is known fits {'beside it' if plan.gpu.taken_mib else 'here: a larger card is needed'}."
    )


def _choices(plan: Plan) -> list[str]:
    capacity, limits = plan.capacity, plan.limits
    if not plan.predicted:
        return [
            "This architecture's parts are not known: vLLM measures them itself at start, with "
            f"{plan.memory_mib.headroom:,} MiB left to them, and then sizes the KV cache."
        ]
    kv = f"KV cache: {capacity.kv_tokens:,} tokens, that is {_times(capacity.kv_tokens, capacity.max_model_len)} "
    kv += f"conversations of {capacity.max_model_len:,}"
    if capacity.image_tokens:
        photo = capacity.image_tokens * min(_PHOTO_PIXELS, limits.max_image_pixels) // limits.max_image_pixels
        kv += f", or {capacity.kv_tokens // (photo + QUESTION_TOKENS)} questions about a 1024×768 photo at once"
    together = plan.tensor_parallel_size
    lines = [f"This on each of {together} cards, which share one server."] if together > 1 else []
    if plan.servers > 1:
        lines += [
            f"{plan.servers} such servers on one port: one for {'each card' if together == 1 else f'{together} cards'}."
        ]
    lines.append(f"{kv}; at most {capacity.max_num_seqs} requests run at once.")
    lines.append(
        f"Pictures: at most {limits.max_image_pixels:,} pixels ({capacity.image_tokens:,} tokens), larger ones are shrunk; "
        f"{limits.max_images_per_request} a request. One step sends up to {capacity.encoder_tokens:,} tokens of them through "
        "the vision encoder."
        if limits.max_images_per_request
        else "Pictures: none, and no memory is planned for them."
    )
    if capacity.image_tokens:
        lines.append(_video(plan))
    if graphs := plan.compilation.get("encoder_cudagraph_token_budgets"):
        lines.append(
            f"CUDA graphs of pictures too, of {min(graphs):,} to {max(graphs):,} tokens a step, for chips that do one in less "
            "time than its kernels take to launch."
        )
    if (interval := plan.engine_args.get("stream_interval", 1)) != 1:
        lines.append(f"Streams: {interval} tokens an event, so that sending them does not hold up who shares the card.")
    if plan.adapters:
        lines.append(
            f"Adapters: {', '.join(plan.adapters.names) or 'none yet'}; their slots of rank {plan.adapters.max_lora_rank} take "
            f"{plan.adapters.slots_mib:,} MiB of the buffers."
        )
    if plan.speculation:
        lines.append(_speculation(plan.speculation))
    if plan.predicted and plan.gpu.name != "CPU" and not plan.expandable_segments:
        lines.append(
            "Fragmentation: pictures of many sizes leave gaps, since torch's allocator has segments of a fixed size in WSL2, "
            "on cards that share a server, and where PYTORCH_ALLOC_CONF is set."
        )
    lines += [f"Given up so that it fits: {'; '.join(plan.given_up)}."] if plan.given_up else []
    if plan.expected.decode_tokens_per_s is not None:
        lines.append(
            f"Expected: {plan.expected.decode_tokens_per_s:.0f} tokens/s for one client ({plan.expected.source})."
        )
    return lines


def _speculation(planned: PlannedSpeculation) -> str:
    tokens = f"{planned.tokens} token{'s' if planned.tokens > 1 else ''}"
    if planned.head is None:
        said = (
            f"Speculation ({planned.method}): {tokens} a step are guessed from the text. That takes {planned.mib:,} MiB"
        )
    else:
        said = (
            f"Speculation: the EAGLE3 head {planned.head} drafts {tokens} a step, which the model checks at once. That takes "
            f"{planned.mib:,} MiB ({planned.weights_mib:,} of them the head's weights) and "
            f"{planned.kv_bytes_per_token / 1024:g} KiB of KV cache for each token"
        )
    return f"{said}. What it saves depends on the answers; an expected speed is without it."


def _video(plan: Plan) -> str:
    limits, capacity = plan.limits, plan.capacity
    if limits.max_video_frames:
        size = f"{limits.max_video_frame_pixels:,} pixels"
        return (
            f"Video: up to {limits.max_video_frames} frames of {size}, which the client samples and sends as pictures."
        )
    frames = Frames(min(EXAMPLE_PIXELS, limits.max_image_pixels), limits.max_image_pixels // capacity.image_tokens)
    in_context, in_all = frames.most(capacity.max_model_len), frames.most(capacity.kv_tokens)
    return (
        f"Video: off. With `video` in the profile, {in_context} frames of {frames.pixels:,} pixels fit a conversation of "
        f"{capacity.max_model_len:,} tokens, and {in_all} the whole KV cache."
    )


def _times(whole: int, part: int) -> str:
    return f"{whole // part}" if whole >= part else f"{whole / part:.1f}"


def describe_steps(subject: Subject, plan: Plan, user_args: dict[str, Any]) -> str:
    """What one step in each direction would change."""
    if not (plan.fits and plan.predicted):
        return ""
    return "\n".join(("One step otherwise:", *(_step(plan, step) for step in steps(subject, plan, user_args))))


def _step(plan: Plan, step: Step) -> str:
    other = step.plan
    if not other.fits:
        return f"  {step.flag:<34} does not fit: {other.reason}"
    changed = other.capacity.kv_tokens - plan.capacity.kv_tokens
    also = f", with {', '.join(step.also)}" if step.also else ""
    return f"  {step.flag:<34} {other.capacity.kv_tokens:,} KV tokens ({changed:+,}){also}"


def describe_measured(status: dict[str, Any]) -> str:
    """What the parts of a running server took, beside what was predicted; `status` is its `/onecard/status`."""
    predicted, measured = status["plan"]["memory_mib"], status["measured"].get("memory_mib")
    if not measured:
        return "Nothing was measured: " + (
            f"the server is still {status['state']}." if status["state"] != "ready" else "it runs on no GPU."
        )
    lines = [f"  {'':<15}{'predicted':>10}{'measured':>10}  MiB"]
    for key, title in _NAMES.items():
        if key in measured:
            lines.append(f"  {title:<15}{predicted[key]:>10,}{measured[key]:>10,}  {measured[key] - predicted[key]:+,}")
    both = [sum(each[key] for key in _NAMES if key in measured) for each in (predicted, measured)]
    lines.append(f"  {'together':<15}{both[0]:>10,}{both[1]:>10,}  {both[1] - both[0]:+,}")
    return "\n".join([*lines, *_held(status["measured"])])


def _held(measured: dict[str, Any]) -> Iterator[str]:
    """What the server holds while it serves, and whether the card was ever full."""
    if held := measured.get("held_mib"):
        yield f"Now: the allocator holds {held['reserved']:,} MiB, and has held {held['reserved_peak']:,}."
        if held["process"]:
            yield f"The process holds {held['process']:,} MiB of the card."
        times = measured["given_back"]
        yield (
            f"It had to give memory back {times:,} time{'s' if times > 1 else ''} before an allocation fitted, some "
            "milliseconds each: the card is full. Leave it more with a smaller --kv-cache-memory-bytes, or shorter steps "
            "(--max-num-batched-tokens)."
            if times
            else "It never had to give any back for an allocation to fit."
        )


def describe_profiles() -> str:
    """The profiles with their cards and models, then the models with their sources."""
    lines = ["Profiles (make serve PROFILE=…, onecard serve --profile …):"]
    for name, profile in load_profiles().items():
        aliases = f", alias {', '.join(profile.aliases)}" if profile.aliases else ""
        lines.append(f"  {name:<16}{profile.title}: serves {profile.model}{aliases}")
    lines += ["", "Models (MODEL=…, --model …):"]
    for name, model in load_models().items():
        source = model.source.hub or "comes with onecard"
        lines.append(f"  {name:<18}{model.title}: {source}, {model.source.licence}")
    return "\n".join(lines)


def profiles_json() -> str:
    """Both as one JSON object: every key of the YAML files, by name."""
    return json.dumps(
        {
            "profiles": {name: profile.model_dump() for name, profile in load_profiles().items()},
            "models": {name: model.model_dump() for name, model in load_models().items()},
        },
        indent=2,
        ensure_ascii=False,
    )
