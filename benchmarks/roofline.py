"""How fast a card should be that nobody here has run: a prediction from its data sheet, and never a measurement.

A decoded token reads the language model's weights and the KV cache of what is in flight; a prompt is multiplied through
the vision encoder and the language model. Each is bounded by the slower of memory and arithmetic (Williams et al.,
"Roofline", 2009), decoding by the memory, prompts by the arithmetic:

    F(prompt)   = 2·V·patches + 4·depth·h·patches² + 2·M·tokens + 2·T·tokens + 2·layers·heads·size·tokens²
    t(prompt)   = host + F / (E · peak)
    t(step, B)  = fixed + (W + B · context · kv) / bandwidth
    tok/s       = 1 / t(step, 1)
    images/s    = 1 / (F / (E · peak) + answer · t(step, B) / B)

V, M and T are the parameters of encoder, mergers and language model (without its table of words), W the bytes of weights
read for a token, kv the bytes of a token in the KV cache. `host` and `fixed` are what a measurement on another GPU leaves
when its own bytes and multiplications are taken away: Python, launches, scheduling, sampling. They are as large on a small
card, so the prediction that counts them is the honest one, and the one without them the bound. peak is that of tensor
cores with 16-bit factors and 32-bit sums, which on GeForce cards is half of the number in the advertisement: tensor cores
× boost clock × 128.
"""

from dataclasses import dataclass

from benchmarks.results import Run
from serving.errors import ConfigError
from serving.fleet.cards import EFFICIENCY, peak_tflops, prompt_flop
from serving.models.architecture import Shape, Text, read_shape
from serving.models.checkpoint import read_checkpoint
from serving.models.files import Folder
from serving.planning import memory
from serving.planning.profile import load_profiles, shape_dir

# The cards that are told in the README.
_PREDICTED = ("rtx3060", "rtx4060ti", "rtx4090")
# What the measurement was made on, by the word that its name contains: bandwidth in GB/s, peak in TFLOPS (data sheet).
_MEASURED_ON = {"H200": (4800.0, 989.0)}
# Four bits, and for each group of 128 a scale of 16 bits and a zero of four.
_W4_BYTES = (4 + (16 + 4) / 128) / 8
_PICTURE = (1024, 768)
_TEXT_TOKENS = 16


@dataclass(frozen=True)
class Overhead:
    """Seconds that do not depend on the card: before a prompt's multiplications, and in each step of decoding."""

    host_s: float = 0.0
    fixed_s: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """One card with one 1024×768 picture a request and answers of `answer` tokens; `images_per_s` with 16 in flight."""

    title: str
    first_token_s: float
    tokens_per_s: float
    images_per_s: float


def qwen3_vl_2b() -> Shape:
    """What is predicted for."""
    folder = shape_dir("qwen3-vl-2b")
    checkpoint = read_checkpoint(Folder(folder)) if folder else None
    shape = read_shape(checkpoint.architecture, checkpoint.config) if checkpoint else None
    if shape is None:
        raise ConfigError("the shipped shape of qwen3-vl-2b is missing")
    return shape


def w4_bytes(text: Text) -> float:
    """Bytes that a token reads with four-bit layers and a head of 16 bits, as AWQ has them."""
    return text.body.linear * _W4_BYTES + (text.body.other + text.embedding) * 2


def predict(
    title: str,
    bandwidth_gb_s: float,
    peak_tflops: float,
    overhead: Overhead,
    *,
    in_flight: int = 16,
    answer: int = 128,
) -> Prediction:
    """The formulas of this module for one card, four-bit weights and one 1024×768 picture."""
    shape = qwen3_vl_2b()
    flop = prompt_flop(shape, *_PICTURE, _TEXT_TOKENS)
    prompt_s = flop / (EFFICIENCY * peak_tflops * 1e12)
    context = _PICTURE[0] * _PICTURE[1] // shape.vision.pixels_per_token + _TEXT_TOKENS + answer // 2
    kv = context * memory.kv_bytes_per_token(shape.text)

    def step_s(sequences: int) -> float:
        return overhead.fixed_s + (w4_bytes(shape.text) + sequences * kv) / (bandwidth_gb_s * 1e9)

    return Prediction(
        title,
        first_token_s=overhead.host_s + prompt_s,
        tokens_per_s=1 / step_s(1),
        images_per_s=1 / (prompt_s + answer * step_s(in_flight) / in_flight),
    )


def predictions(overhead: Overhead) -> list[Prediction]:
    """The three cards that have a profile, with the bandwidth that it names."""
    found = []
    for name, profile in load_profiles().items():
        if name in _PREDICTED and profile.gpu is not None:
            found.append(predict(profile.title, profile.gpu.bandwidth_gb_s, peak_tflops(name), overhead))
    return found


def overhead_of(run: Run) -> Overhead | None:
    """What one client's measurement leaves beside its bytes and multiplications; None where the run has none."""
    row = run.row("latency", "1 client", "onecard")
    facts = next((facts for word, facts in _MEASURED_ON.items() if word in run.machine.get("gpu", "")), None)
    if facts is None or row is None or "per_token_ms" not in row.medians:
        return None
    ideal = predict("", *facts, Overhead())
    return Overhead(
        host_s=max(0.0, row.medians["first_token_ms"] / 1000 - ideal.first_token_s),
        fixed_s=max(0.0, row.medians["per_token_ms"] / 1000 - 1 / ideal.tokens_per_s),
    )
