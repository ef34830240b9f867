"""Profiles (what a card is and what is asked of it) and models (where a checkpoint comes from and how it is served).

Both are YAML files under `configs/`, or a file of the user's own given by its path. This module reads and checks them;
it decides nothing. An unknown key is an error that names the nearest known one.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import ConfigError
from serving.setup.near import nearest

# The one in C takes a tenth of the time; it comes with most builds of the package.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
T = TypeVar("T", bound=BaseModel)
Policy = Literal["interactivity", "balanced", "throughput"]
FORMAT = 1
"""Of the YAML files, their key `version`. A file without the key is of the first."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuFacts(_Strict):
    """What a card is, from its data sheet. `names` are the names NVML gives it."""

    names: tuple[str, ...] = Field(min_length=1)
    memory_mib: int = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    compute_capability: str
    reserved_mib: int = Field(default=0, ge=0, description="what desktop, browser and driver usually hold")

    def can_be(self, total_mib: int) -> bool:
        """Whether a card of that much memory can be this one; drivers keep a little of it for themselves."""
        return abs(total_mib - self.memory_mib) <= self.memory_mib // 20


class Limits(_Strict):
    max_image_pixels: int = Field(ge=1024, description="larger pictures are shrunk to this many pixels")
    max_images_per_request: int = Field(ge=0)
    max_body_mib: int = Field(gt=0)


class Video(_Strict):
    """A clip, as frames that the client samples and sends as pictures."""

    max_frames: int = Field(ge=1, le=1000, description="frames of one request")
    max_frame_pixels: int = Field(ge=1024, description="the client shrinks frames to this many pixels")


class Profile(_Strict):
    """A card and what is asked of it. `engine_args` are vLLM's arguments by vLLM's names: each wins over the plan's own
    choice and is planned with."""

    version: int = Field(default=FORMAT, ge=1, description="of this format")
    title: str
    aliases: tuple[str, ...] = ()
    device: Literal["cuda", "cpu"]
    gpu: GpuFacts | None = None
    model: str
    models: tuple[str, ...] = Field(default=(), description="others that a request may name, loaded in its place")
    policy: Policy
    context: int = Field(ge=256, description="tokens of one conversation, pictures included, that are wished for")
    limits: Limits
    video: Video | None = Field(default=None, description="off where it is left out")
    kv_cache_mib: int | None = Field(default=None, gt=0, description="the most that the KV cache may take")
    lora_modules: tuple[str, ...] = Field(default=(), description="LoRA adapters as name=folder, each a model name")
    engine_args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _can_be_planned(self) -> Self:
        """Without the card's memory the plan would be made of the machine's, and arguments by other names would go past it."""
        if (self.device == "cuda") != (self.gpu is not None):
            raise ValueError("`gpu` says what the card is: `device: cuda` needs it, and `device: cpu` has none")
        for name in self.engine_args:
            if "-" in name:
                raise ValueError(f"`engine_args.{name}`: write `{name.replace('-', '_').strip('_')}`, with underscores")
        return self


class ModelSource(_Strict):
    """Where the checkpoint is: a folder of this package (`builtin`), or a Hub id with its revision."""

    builtin: str | None = None
    hub: str | None = None
    revision: str = "main"
    publisher: str
    licence: str


class HeadSource(_Strict):
    """Where an EAGLE3 head is, which drafts for the model (vLLM's `--speculative-config`)."""

    hub: str
    revision: str = "main"
    publisher: str
    licence: str


class Sampling(_Strict):
    """The publisher's recommended sampling, by vLLM's names; what is left out keeps vLLM's default."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    # vLLM refuses every request with "top_k must be an integer" where this is 20.0.
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)


class Quality(_Strict):
    """What fewer bits cost in answers, against the 16-bit original. `loss_points`: benchmark → points of its score lost, as the
    source says; empty where it only says that there is no loss to speak of."""

    known: Literal["published", "unmeasured"]
    loss_points: dict[str, float] = {}
    source: str | None = None


class Model(_Strict):
    """`family` is shared by the precisions of one model. `best_on`: the profiles that this precision of the family serves best,
    by memory and by speed; `quality` is None for the 16-bit original."""

    version: int = Field(default=FORMAT, ge=1, description="of this format")
    title: str
    family: str | None = None
    source: ModelSource
    best_on: tuple[str, ...] = ()
    quality: Quality | None = None
    served_model_name: tuple[str, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()
    eagle3: HeadSource | None = Field(default=None, description="taken where --speculative-config names no other")
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    default_max_tokens: int = Field(gt=0)
    largest_max_tokens: int = Field(gt=0)


def configs_dir() -> Path:
    """Where the shipped YAML files are: the repository's `configs/`, or where an installed wheel put them."""
    if override := os.environ.get("ONECARD_CONFIGS_DIR"):
        return Path(override)
    in_repository = Path(__file__).parents[2] / "configs"
    return in_repository if in_repository.is_dir() else Path(sys.prefix) / "share" / "onecard" / "configs"


def shape_dir(model_name: str) -> Path | None:
    """The shipped folder with that model's config and without its weights, to plan with before anything is there."""
    folder = Path(__file__).parents[1] / "shapes" / model_name
    return folder if folder.is_dir() else None


def load_profile(name: str) -> tuple[str, Profile]:
    """The profile of that name, alias or YAML path, with its canonical name."""
    if _is_path(name):
        return Path(name).stem, read_config(Path(os.path.expanduser(name)), Profile)
    profiles = load_profiles()
    for key, profile in profiles.items():
        if name == key or name in profile.aliases:
            return key, profile
    known = [*profiles, *(alias for profile in profiles.values() for alias in profile.aliases)]
    raise ConfigError(
        f"There is no profile {name!r}.{_nearest(name, known)} Known profiles: {', '.join(sorted(profiles))}, and `auto`, "
        "which takes the one of the GPU found. A file of your own is given by its path, as in --profile ./mine.yaml."
    )


def load_profiles() -> dict[str, Profile]:
    """All shipped profiles, by name."""
    folder = configs_dir() / "profiles"
    if not folder.is_dir():
        raise ConfigError(
            f"There is no folder {folder}. ONECARD_CONFIGS_DIR must name one like `configs/` of the checkout, with "
            "`profiles/` and `models/` in it; without it, the shipped ones are taken."
        )
    return {path.stem: read_config(path, Profile) for path in sorted(folder.glob("*.yaml"))}


def load_models() -> dict[str, Model]:
    """All shipped models, by name."""
    return {path.stem: read_config(path, Model) for path in sorted((configs_dir() / "models").glob("*.yaml"))}


def find_model(name: str) -> tuple[str, Model] | None:
    """The model of that file name, YAML path or Hub id; None when `name` is none of them (then it is a folder or an
    id without a file of its own)."""
    if _is_path(name):
        return Path(name).stem, read_config(Path(os.path.expanduser(name)), Model)
    shipped = configs_dir() / "models" / f"{name}.yaml"
    if "/" not in name and shipped.is_file():
        return name, read_config(shipped, Model)
    return next(((key, model) for key, model in load_models().items() if model.source.hub == name), None)


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def read_config(path: Path, kind: type[T]) -> T:
    """One YAML file, checked. Raises ConfigError naming the key that is wrong, and the nearest that is known."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - both are safe
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, as the files in {configs_dir()} do.")
    if isinstance(raw.get("version"), int) and raw["version"] > FORMAT:
        raise ConfigError(
            f"{path} is of version {raw['version']}, and this onecard reads files up to version {FORMAT}: it was written for a "
            "newer one. Upgrade (`onecard upgrade --to VERSION`), or take a file of this version, as the shipped ones are."
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, kind, problem) for problem in error.errors())) from error


def _explain(path: Path, kind: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{path}: `{where}` is missing."
    if not where:
        return f"{path}: {problem['msg'].removeprefix('Value error, ')}."
    if problem["type"] != "extra_forbidden":
        return f"{path}: `{where}`: {problem['msg']} (it is {problem['input']!r})."
    owner: Any = kind
    for part in problem["loc"][:-1]:
        owner = next((a for a in _models_in(owner.model_fields[part].annotation)), owner)
    known = list(owner.model_fields)
    return f"{path}: unknown key `{where}`.{_nearest(str(problem['loc'][-1]), known)} Known here: {', '.join(known)}."


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    options = getattr(annotation, "__args__", (annotation,))
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def _nearest(word: str, known: list[str]) -> str:
    near = nearest(word, known, cutoff=0.5)
    return f" Did you mean `{near}`?" if near else ""
