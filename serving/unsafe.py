"""What would let a request, or a model's folder, run code or reach into the engine: refused unless `--unsafe` is given."""

from collections.abc import Mapping
from typing import Any

from serving.errors import UsageError

_VARIABLES = {
    "VLLM_SERVER_DEV_MODE": "opens vLLM's debugging routes",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "lets pickled objects run code",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "loads adapters that requests name",
}
_ARGUMENTS = {
    "trust_remote_code": "runs Python that comes with the model",
    "trust_request_chat_template": "runs templates that come with requests",
    "trust_request_mm_kwargs": "lets requests set how pictures are processed",
    "allowed_local_media_path": "lets requests read files of this machine",
    "enable_mm_embeds": "takes tensors from requests",
    "enable_prompt_embeds": "takes tensors from requests",
}
_OFF = ("", "0", "false")


def check_unsafe(environment: Mapping[str, str], user_args: Mapping[str, Any], *, allowed: bool) -> None:
    """Raises UsageError for what is switched on and not safe. `user_args` are vLLM's arguments by their names."""
    found = {name: why for name, why in _VARIABLES.items() if environment.get(name, "").lower() not in _OFF}
    found |= {
        "--" + name.replace("_", "-"): why
        for name, why in _ARGUMENTS.items()
        if user_args.get(name) not in (None, False)
    }
    if found and not allowed:
        reasons = "; ".join(f"{name} {why}" for name, why in found.items())
        raise UsageError(f"Not started, since {reasons}. Leave it out, or add --unsafe if that is what you want.")
