"""What can be set about onecard on Ray Serve. The application's `args` in a Serve config file, and the command's flags."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.errors import ConfigError, UsageError


class Settings(BaseModel):
    """`command` replaces `onecard serve` in a replica; `{port}` in it stands for the port that the replica has chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str = Field(default="auto", description="the card: a name that `onecard profiles` lists")
    model: str | None = Field(default=None, description="a name, a Hub id or a folder that every machine has")
    vllm_arguments: tuple[str, ...] = Field(default=(), description="what follows `--` in `onecard serve`")
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    gpus: float = Field(default=1.0, ge=0, description="GPUs of a replica; 0 on a CPU")
    cpus: float = Field(default=1.0, ge=0, description="cores that Ray sets aside for a replica")
    accelerator: str | None = Field(
        default=None, description="Ray's name of the card, where a cluster has several kinds"
    )
    max_ongoing_requests: int | None = Field(
        default=None, ge=1, description="of a replica. [what the plan runs at once]"
    )
    target_ongoing_requests: float | None = Field(
        default=None, gt=0, description="running and waiting requests a replica, beyond which another is started"
    )
    max_queued_requests: int | None = Field(default=None, ge=1, description="that wait at the door for any replica")
    upscale_delay_s: float = Field(default=10.0, ge=0)
    downscale_delay_s: float = Field(default=300.0, ge=0)
    metrics_interval_s: float = Field(default=2.0, gt=0, description="how often load and our metrics are looked at")
    drain_s: float = Field(default=60.0, gt=0, description="what running answers get when a replica is ended")
    start_s: float = Field(default=1800.0, gt=0, description="the longest start of a replica")
    queue_timeout_s: float = Field(default=60.0, gt=0, description="the longest wait at the door")
    api_keys_file: Path | None = Field(default=None, description="a path that every machine has")
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Settings":
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) is less than min_replicas ({self.min_replicas})")
        return self


def read_settings(args: dict[str, object]) -> Settings:
    """Checks them. Raises ConfigError naming each that is wrong, and UsageError for a range that is none."""
    try:
        return Settings.model_validate(args)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            if not where:
                raise UsageError(problem["msg"].removeprefix("Value error, ")) from error
            known = f" Known: {', '.join(Settings.model_fields)}." if problem["type"] == "extra_forbidden" else ""
            lines.append(f"`{where}`: {problem['msg']} (it is {problem['input']!r}).{known}")
        raise ConfigError("\n".join(lines)) from error
