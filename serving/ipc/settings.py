"""The operator's settings of guard and supervisor. Limits that follow from the card are in the plan."""

from pydantic import BaseModel, ConfigDict, Field


class GuardSettings(BaseModel):
    """Times in seconds, names in lower case. Part of the launch, so that server process and supervisor agree."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_hosts: tuple[str, ...] = Field(default=(), description="names in `Host` beside this machine's own")
    allowed_origins: tuple[str, ...] = Field(default=(), description="web pages of these origins may use the API")
    body_timeout_s: float = Field(default=20.0, gt=0, description="for a request's body, beside what its size takes")
    queue_timeout_s: float = Field(default=60.0, gt=0, description="the longest wait for a turn")
    drain_s: float = Field(default=30.0, ge=0, description="what running answers get to finish after SIGTERM")
    hang_timeout_s: float = Field(
        default=90.0, gt=0, description="an engine without progress for this long is restarted"
    )
    idle_unload_s: float | None = Field(
        default=None, gt=0, description="without requests for this long, the GPU's memory is given back"
    )
    wake_deadline_s: float = Field(
        default=300.0, gt=0, description="the longest that a request is held for a model to be loaded"
    )
    min_stay_s: float = Field(default=60.0, ge=0, description="what a model is served before another takes its place")
    unsafe: bool = Field(default=False, description="start although the environment opens vLLM to code from requests")
