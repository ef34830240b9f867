"""Who is measured: each contender as the command and the environment that start it. Pure; servers.py starts them.

    transformers      the model's own `generate`, without a server: one request at a time (generate.py)
    original          the recipe that this project began with
    vllm              vLLM with its own defaults
    engine            vLLM with exactly onecard's engine arguments, and nothing else of onecard
    engine+connector  the same, with onecard's media connector and what else its plugin does in vLLM's processes
    onecard           `onecard serve`

What onecard is beyond `engine` is what guard, connector and metrics cost; `engine+connector` tells the connector apart.
NAME:VARIANT gives it more arguments or environment variables, or another model (`Variant`), to tell what a lever does or which
checkpoint is faster: as in `--contenders onecard,onecard:graphs --variant graphs='--compilation-config
{"cudagraph_mm_encoder":true}'`.
NAME@6 holds that contender's server to six cores.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.ipc.launch import ENVIRONMENT_KEY, Launch
from serving.planning.engine_args import from_argv, to_argv
from serving.prepare import Prepared

TITLES = {
    "transformers": "transformers `generate`",
    "original": "original recipe",
    "vllm": "vLLM's defaults",
    "engine": "vLLM with onecard's engine arguments",
    "engine+connector": "the same, with onecard's media connector",
    "onecard": "onecard",
}
# The recipe of the article that this project began with, by vLLM's names.
ORIGINAL: dict[str, Any] = {"enforce_eager": True, "max_num_seqs": 16, "max_model_len": 4096}
# How many sequences vLLM takes at a time unless told otherwise is its own affair: no bound on what can be in flight.
_UNBOUNDED = 1 << 30
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class Variant:
    """What one contender gets beside what all get: `argv` for its vLLM, and environment variables. Without a name, nothing.
    With `model` it serves another than the others, as `onecard serve --model` names it."""

    name: str
    argv: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    model: str = ""


def variant(text: str) -> Variant:
    """`some=--stream-interval 4`, or with variables first, `segments=PYTORCH_ALLOC_CONF=expandable_segments:True`, or with a
    model of its own, `fp8=--model FOLDER`. Words end at blanks, so that JSON without any keeps its quotes. Raises
    ValueError."""
    name, equals, words = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"{text!r} is no variant; one is written as NAME='--an-argument VALUE'")
    argv, environment = words.split(), {}
    while argv and _VARIABLE.match(argv[0]):
        variable, _, value = argv.pop(0).partition("=")
        environment[variable] = value
    model = ""
    if "--model" in argv:
        at = argv.index("--model")
        if at + 1 == len(argv):
            raise ValueError(f"{text!r} names no model after --model")
        model = argv[at + 1]
        del argv[at : at + 2]
    return Variant(name, tuple(argv), environment, model)


@dataclass(frozen=True)
class Contender:
    """`in_flight` is the most requests that it works on at a time; `cores` the number its server is held to, if any."""

    name: str
    kind: str
    in_flight: int = _UNBOUNDED
    cores: int | None = None
    variant: Variant = Variant("")

    @property
    def title(self) -> str:
        other = f", {self.variant.name}" if self.variant.name else ""
        held = "" if self.cores is None else f", {self.cores} core{'s' if self.cores > 1 else ''}"
        return TITLES.get(self.kind, self.kind) + other + held

    @property
    def serves(self) -> bool:
        """Whether it is a server that several clients can ask at a time."""
        return self.kind != "transformers"


@dataclass(frozen=True)
class Setting:
    """What is the same for all: the plan, the model's folder, the bytes of KV cache, and the arguments that each vLLM gets."""

    prepared: Prepared
    folder: Path
    kv_cache_bytes: int
    shared_argv: tuple[str, ...] = ()
    gpu_memory_utilization: float | None = None
    variants: tuple[Variant, ...] = ()

    def argv_of(self, contender: Contender) -> tuple[str, ...]:
        """What its vLLM gets after all else."""
        return self.shared_argv + contender.variant.argv

    @property
    def same_args(self) -> dict[str, Any]:
        """By vLLM's names: what every contender gets, whatever else it is."""
        share = self.gpu_memory_utilization
        return {"kv_cache_memory_bytes": self.kv_cache_bytes} | ({"gpu_memory_utilization": share} if share else {})

    @property
    def is_awq(self) -> bool:
        """Whether the checkpoint, or an override of its config, says that it is AWQ's own format."""
        overrides = from_argv(self.shared_argv).get("hf_overrides")
        config = self.prepared.subject.checkpoint.config | (overrides if isinstance(overrides, dict) else {})
        quantization = config.get("quantization_config")
        return isinstance(quantization, dict) and quantization.get("quant_method") == "awq"


def parse(text: str, setting: Setting) -> Contender:
    """`onecard`, `onecard@6` or `onecard:graphs@6`. Raises ValueError for a name that there is not."""
    name, at, cores = text.partition("@")
    kind, colon, called = name.partition(":")
    if kind not in TITLES or (at and not cores.isdigit()):
        raise ValueError(f"there is no contender {text!r}; there are {', '.join(TITLES)}, each also as NAME@CORES")
    chosen = next((each for each in setting.variants if each.name == called), Variant(""))
    if colon and (not chosen.name or kind == "transformers"):
        raise ValueError(
            f"there is no {text!r}: `--variant {called or 'NAME'}='--an-argument VALUE'` makes one of a server"
        )
    if chosen.model and kind != "onecard":
        raise ValueError(f"{text!r} is to serve {chosen.model}: only onecard plans for a model of its own")
    given = from_argv(chosen.argv).get("max_num_seqs")
    in_flight = {
        "transformers": 1,
        "original": ORIGINAL["max_num_seqs"],
        "vllm": _UNBOUNDED,
    }.get(kind, setting.prepared.plan.capacity.max_num_seqs)
    return Contender(text, kind, int(given or in_flight), int(cores) if at else None, chosen)


def command(contender: Contender, setting: Setting, port: int, launch_file: Path) -> list[str]:
    """What starts its server on that port. `launch_file` is where `launch_of` is written, for those that read it."""
    plan = setting.prepared.plan
    same = setting.same_args
    vllm = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(setting.folder)]
    vllm += ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
    match contender.kind:
        case "onecard":
            model = contender.variant.model or str(setting.prepared.resolved.name)
            own = ["--profile", plan.profile, "--model", model, "--port", str(port)]
            return [sys.executable, "-m", "serving", "serve", *own, "--", *to_argv(same), *setting.argv_of(contender)]
        case "original":
            recipe = ORIGINAL | ({"quantization": "awq"} if setting.is_awq else {})
            return [*vllm, *to_argv(recipe | same), *setting.argv_of(contender)]
        case "vllm":
            # Its own default is the model's whole context, which this KV cache does not hold.
            return [*vllm, *to_argv({"max_model_len": plan.capacity.max_model_len} | same), *setting.argv_of(contender)]
        case "engine" | "engine+connector":
            return [sys.executable, "-m", "benchmarks.engine_only", str(launch_file)]
    raise ValueError(f"{contender.name} is no server")


def environment(
    contender: Contender, *, gpu: str | None, launch_file: Path, state_dir: Path, caches: Path | None
) -> dict[str, str]:
    """What is set beside this process's own environment. `caches` is the folder of this contender's own caches, if any."""
    own = same_environment() | {"ONECARD_STATE_DIR": str(state_dir)}
    if gpu is not None:
        own["CUDA_VISIBLE_DEVICES"] = gpu
    if contender.kind == "engine+connector":
        own |= {ENVIRONMENT_KEY: str(launch_file), "VLLM_MEDIA_CONNECTOR": "onecard"}
    return own | (cache_environment(caches) if caches else {}) | contender.variant.environment


def same_environment() -> dict[str, str]:
    """What is set for every vLLM that is measured: it tells nobody of it, and it starts."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_COLOR": "0"}
    # Without a compiler the engine dies compiling this sampler. onecard leaves it out by itself.
    return quiet if shutil.which("nvcc") else quiet | {"VLLM_USE_FLASHINFER_SAMPLER": "0"}


def cache_environment(folder: Path) -> dict[str, str]:
    """Where vLLM, Inductor, Triton, FlashInfer and the CUDA driver keep what they have compiled."""
    places = {
        "VLLM_CACHE_ROOT": "vllm",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "FLASHINFER_WORKSPACE_BASE": "flashinfer",
        "CUDA_CACHE_PATH": "cuda",
    }
    return {name: str(folder / place) for name, place in places.items()}


def launch_of(contender: Contender, setting: Setting, port: int, run_dir: Path) -> Launch:
    """The start that `onecard serve` would make on that port, for a vLLM that gets its engine arguments only."""
    prepared = setting.prepared
    return Launch(
        plan=prepared.plan.model_copy(update={"engine_args": prepared.plan.engine_args | setting.same_args}),
        model_folder=setting.folder,
        default_max_tokens=prepared.resolved.model.default_max_tokens,
        host="127.0.0.1",
        port=port,
        run_dir=run_dir,
        user_argv=setting.argv_of(contender),
    )


def with_cores(contenders: Sequence[Contender], cores: int | None) -> list[Contender]:
    """Those that name no number of cores of their own are held to this one."""
    return [replace(each, cores=cores) if each.cores is None and cores else each for each in contenders]
