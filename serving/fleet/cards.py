"""How long one card takes for a prompt and for a step of decoding: measured on it, or derived from its data sheet. Pure.

    prompt    = host + FLOP(pictures and text) / (E · peak)
    step(B)   = 1 / expected + (B - 1) · context · kv / (0.7 · bandwidth)

`expected` is the plan's `decode_tokens_per_s` for one client: bandwidth over the bytes read for a token, times 0.7.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import ConfigError
from serving.models.architecture import Shape
from serving.planning import memory
from serving.planning.plan import Plan

# The share of the peak that a prompt reaches: 5.2 TFLOP of picture and prompt took about 12 ms of an H200 (989 TFLOPS).
EFFICIENCY = 0.45
_FLOP_PER_CLOCK = 128
# Of the bandwidth, as in `verdict.expected`.
_BANDWIDTH_SHARE = 0.7
# Profile → (tensor cores, boost clock in GHz), of a laptop's card the highest clock that it may have. Checked in November 2026:
# 3090, 4090, 5090 against NVIDIA's white papers GA102, Ada and RTX Blackwell as others cite them; the laptops against NVIDIA's
# "GeForce gaming laptops" comparison, whose AI TOPS of the 4090 Laptop would need 2.20 GHz; the others against reviews and spec
# tables, and all but the 3060 Ti against the tensor-core number that NVIDIA advertises. The sources by card: docs/cards.md.
TENSOR_CORES = {
    "rtx3060": (112, 1.777), "rtx3060ti": (152, 1.665), "rtx3070": (184, 1.725), "rtx3090": (328, 1.695),
    "rtx4060": (96, 2.460), "rtx4060-laptop": (96, 2.370), "rtx4060ti": (136, 2.535), "rtx4060ti-8g": (136, 2.535),
    "rtx4080-laptop": (232, 2.280), "rtx4090-laptop": (304, 2.040), "rtx4090": (512, 2.520),
    "rtx5060": (120, 2.497), "rtx5060ti": (144, 2.572), "rtx5090": (680, 2.407),
}  # fmt: skip
# Reading, decoding, shrinking and processing of a 1024×768 JPEG (benchmarks/results/image-path.json, on a Xeon).
_HOST_S_PER_PICTURE = 0.005
# HTTP, template, tokenizer and scheduling of a request: a convention until it is measured.
_HOST_S = 0.010


class Measured(BaseModel):
    """Seconds that `benchmarks.fleet_check` or `cards_check` found (calibrate.py). `delay_s` passes beside the engine's work; a
    prompt takes `prompt_s` of the engine, a step `step_s` and `sequence_s` for each answer in it."""

    model_config = ConfigDict(frozen=True)

    delay_s: float = Field(ge=0)
    prompt_s: float = Field(gt=0)
    prompt_tokens: int = Field(gt=0)
    step_s: float = Field(gt=0)
    sequence_s: float = Field(ge=0)


@dataclass(frozen=True)
class Service:
    """One replica as a queue. `at_once` requests run together; `queue` wait behind them; a step sends up to `budget` tokens of
    prompts through. `source` says where the seconds are from."""

    delay_s: float
    prompt_s: float
    prompt_tokens: int
    step_s: float
    sequence_s: float
    at_once: int
    queue: int
    budget: int
    source: str

    def step(self, sequences: int) -> float:
        """Seconds of a step in which so many answers get a token each."""
        return self.step_s + self.sequence_s * sequences if sequences else 0.0

    def idle_s(self, answer_tokens: float) -> tuple[float, float]:
        """Seconds to the first token and to the end of an answer when nobody else asks."""
        first = self.delay_s + self.prompt_s + self.step(1)
        return first, first + (answer_tokens - 1) * self.step(1)

    def most_per_s(self, answer_tokens: float) -> float:
        """Requests a second that it cannot exceed, with a full batch all the time."""
        return 1 / (self.prompt_s + answer_tokens * self.step(self.at_once) / self.at_once)


def peak_tflops(profile: str) -> float:
    """Dense, with 16-bit factors and 32-bit sums: on GeForce cards half of what 16-bit sums have, and a quarter (RTX 30), an
    eighth (40) or a sixteenth (50) of the number in the advertisement, which is of fewer bits and sparse."""
    cores, ghz = TENSOR_CORES[profile]
    return cores * ghz * _FLOP_PER_CLOCK / 1000


def prompt_flop(shape: Shape, width: int, height: int, text_tokens: int, pictures: int = 1) -> float:
    """Multiplications and additions of pictures and their question, up to the first token:
    pictures · (2·V·patches + 4·depth·h·patches² + 2·M·tokens) + 2·T·all + 2·layers·heads·size·all²."""
    text, vision = shape.text, shape.vision
    patches = (width // vision.patch_size) * (height // vision.patch_size)
    tokens = width * height // vision.pixels_per_token
    every = pictures * tokens + text_tokens
    encoder = vision.body.linear - vision.mergers
    seen = 2 * encoder * patches + 4 * vision.depth * vision.hidden_size * patches**2 + 2 * vision.mergers * tokens
    return float(
        pictures * seen + 2 * text.body.linear * every + 2 * text.layers * text.heads * text.head_dim * every**2
    )


def picture_size(plan: Plan, picture: tuple[int, int]) -> tuple[int, int]:
    """The picture as it is after the plan's limit has shrunk it."""
    width, height = picture
    share = min(1.0, (plan.limits.max_image_pixels / (width * height)) ** 0.5)
    return max(1, int(width * share)), max(1, int(height * share))


def derived(
    plan: Plan,
    shape: Shape,
    bandwidth_gb_s: float,
    *,
    pictures: int,
    picture: tuple[int, int],
    question: int,
    answer: int,
) -> Service:
    """The times of a plan on its card, from the data sheet. Raises ConfigError for a card that is not known."""
    if plan.profile not in TENSOR_CORES or not plan.expected.decode_tokens_per_s:
        raise ConfigError(
            f"No times can be derived for the profile `{plan.profile}`: its tensor cores are not known here. Measure it with "
            "`python -m benchmarks.fleet_check URL`, and name the result by `measured:`."
        )
    peak = peak_tflops(plan.profile)
    width, height = picture_size(plan, picture)
    tokens = pictures * (width * height // shape.vision.pixels_per_token) + question
    flop = prompt_flop(shape, width, height, question, pictures)
    a_sequence = (
        (tokens + answer / 2) * memory.kv_bytes_per_token(shape.text) / (_BANDWIDTH_SHARE * bandwidth_gb_s * 1e9)
    )
    at_once, queue = in_flight(plan, tokens, tokens - question, answer)
    return Service(
        delay_s=_HOST_S + pictures * _HOST_S_PER_PICTURE,
        prompt_s=flop / (EFFICIENCY * peak * 1e12),
        prompt_tokens=tokens,
        step_s=1 / plan.expected.decode_tokens_per_s,
        sequence_s=a_sequence,
        at_once=at_once,
        queue=queue,
        budget=int(plan.engine_args["max_num_batched_tokens"]),
        source=f"derived, not measured: prompts at {EFFICIENCY:.0%} of {peak:.0f} TFLOPS, steps at "
        f"{_BANDWIDTH_SHARE:.0%} of {bandwidth_gb_s:g} GB/s",
    )


def from_measured(plan: Plan, measured: Measured, answer: int, source: str) -> Service:
    """The times that were measured, with what the plan runs at once."""
    at_once, queue = in_flight(plan, measured.prompt_tokens, measured.prompt_tokens, answer)
    return Service(
        delay_s=measured.delay_s,
        prompt_s=measured.prompt_s,
        prompt_tokens=measured.prompt_tokens,
        step_s=measured.step_s,
        sequence_s=measured.sequence_s,
        at_once=at_once,
        queue=queue,
        budget=int(plan.engine_args["max_num_batched_tokens"]),
        source=source,
    )


def in_flight(plan: Plan, prompt_tokens: int, image_tokens: int, answer: int) -> tuple[int, int]:
    """How many such requests the guard lets run at once, and how many wait behind them (guard/state.py, `capacity_of`).
    Each is charged with its prompt and its longest answer, for which the mean stands here."""
    from serving.guard.state import capacity_of

    room = capacity_of(plan)
    by_kv = room.kv_tokens // max(1, prompt_tokens + answer)
    by_encoder = room.encoder_tokens // image_tokens if image_tokens else room.sequences
    return max(1, min(room.sequences, by_kv, by_encoder)), room.queue
