"""Plans and profiles in words for a terminal. JSON is for machines; this is for people."""

import json

from serving.plan import Plan
from serving.profile import load_models, load_profiles

_BAR = 44
_NAMES = {
    "weights": "weights",
    "vision_encoder": "vision encoder",
    "activations": "activations",
    "encoder_cache": "encoder cache",
    "logits": "logits",
    "cuda_graphs": "CUDA graphs",
    "context": "context",
    "headroom": "headroom",
    "kv_cache": "KV cache",
}


def describe_plan(plan: Plan) -> str:
    """The memory as a table with bars, then a sentence for each choice."""
    memory = plan.memory_mib
    lines = [
        f"{plan.model} on {plan.gpu.name} (profile {plan.profile}): "
        f"{memory.total:,} of {plan.gpu.usable_mib:,} MiB planned, {plan.gpu.total_mib:,} in all"
    ]
    for key, title in _NAMES.items():
        mib = getattr(memory, key)
        share = round(_BAR * mib / max(1, plan.gpu.usable_mib))
        lines.append(f"  {title:<15}{mib:>8,} MiB  {'█' * share or '▏'}")
    capacity, limits = plan.capacity, plan.limits
    lines += [
        f"KV cache: {capacity.kv_tokens:,} tokens, that is {capacity.kv_tokens // capacity.max_model_len} conversations of "
        f"{capacity.max_model_len:,}; at most {capacity.max_num_seqs} requests run at once.",
        f"Pictures: at most {limits.max_image_pixels:,} pixels ({capacity.image_tokens:,} tokens), larger ones are shrunk; "
        f"{limits.max_images_per_request} a request.",
    ]
    if plan.expected.decode_tokens_per_s is not None:
        lines.append(
            f"Expected: {plan.expected.decode_tokens_per_s:.0f} tokens/s for one client ({plan.expected.source})."
        )
    if plan.reason:
        lines.append(f"It does not fit: {plan.reason}.")
    return "\n".join(lines)


def describe_profiles() -> str:
    """The profiles with their cards and models, then the models with their sources."""
    lines = ["Profiles (make serve PROFILE=…, onecard serve --profile …):"]
    for name, profile in load_profiles().items():
        aliases = f", alias {', '.join(profile.aliases)}" if profile.aliases else ""
        lines.append(f"  {name:<12}{profile.title}: serves {profile.model}{aliases}")
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
