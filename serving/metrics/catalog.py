"""Every metric of ours, declared once: what is recorded, what collectors yield, and the page `docs/metrics.md` come from here.

Owns names, help texts, labels and buckets; neither values nor when they are taken. Conventions are Prometheus' own
(base units, `_total` for counters); every label has a bounded set of values, which its help names.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """`name` as it is exposed, less what a histogram appends. `bounds` are a histogram's upper bounds, less +Inf."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


# --- recorded in the server process, as requests pass -------------------------------------------------------------

_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
_FIRST_TOKEN_S = (0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 40)
_IMAGE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_QUEUE_S = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80)
# Around what cameras, screens and the profiles' pixel budgets have: 256², 512², 1024×768, 1280×960, 4K, 12 MP, 48 MP.
_PIXELS = (65_536, 262_144, 524_288, 786_432, 1_228_800, 2_097_152, 4_194_304, 8_294_400, 12_582_912, 25e6, 50e6, 100e6)

REQUESTS = Metric(
    "onecard_requests_total",
    "counter",
    "Requests that came to their end. `route` is a route of onecard or `other`; `key` the name of the API key or `none`; "
    "`outcome` is answered, refused (4xx, and 503 with Retry-After), failed, or left (the client went away); `reason` "
    "is the `code` of the error, `http_STATUS` where there is none, and `none` for an answer.",
    ("route", "key", "outcome", "reason"),
)
REQUEST_SECONDS = Metric(
    "onecard_request_seconds",
    "histogram",
    "Seconds from a request's first byte in to its answer's last byte out, answered requests only.",
    ("route",),
    _REQUEST_S,
)
FIRST_TOKEN_SECONDS = Metric(
    "onecard_first_token_seconds",
    "histogram",
    "Seconds to the first byte of a streamed answer, as the client sees it: queue, picture and prompt included.",
    ("route",),
    _FIRST_TOKEN_S,
)
REFUSAL_SECONDS = Metric(
    "onecard_refusal_seconds",
    "histogram",
    "Seconds in the guard from a request's head, or the last of its body that was read, to the first byte of its refusal; "
    "`reason` as in `onecard_requests_total`.",
    ("reason",),
    (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
)
TOKENS_PER_SECOND = Metric(
    "onecard_answer_tokens_per_second",
    "histogram",
    "Tokens of a streamed answer over the seconds between its first byte and its last.",
    (),
    (1, 2, 5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600),
)
TOKENS = Metric(
    "onecard_tokens_total",
    "counter",
    "Tokens by API key, as vLLM has counted them of each whole answer; `kind` is prompt (images included), image or answer. "
    "`vllm:generation_tokens_total` counts those of answers that were broken off too, without keys. Images "
    "are counted under the key `none`: the connector that fits them does not know who asked.",
    ("kind", "key"),
)
ANSWERS = Metric(
    "onecard_answers_total",
    "counter",
    "Answers by why they ended: `finish` is stop, length (it ran into its length limit), tool_calls or other.",
    ("finish",),
)
IN_FLIGHT = Metric(
    "onecard_requests_in_flight", "gauge", "Requests for answers that are being worked on or wait. Probes do not count."
)
QUEUED = Metric("onecard_requests_queued", "gauge", "Admitted requests that wait in the guard for room in the engine.")
QUEUE_SECONDS = Metric(
    "onecard_queue_seconds",
    "histogram",
    "Seconds that a request waited in the guard for room in the engine.",
    (),
    _QUEUE_S,
)
RETRY_AFTER_SECONDS = Metric(
    "onecard_retry_after_seconds",
    "histogram",
    "Seconds that refused clients were told to wait (Retry-After).",
    (),
    (1, 2, 5, 10, 20, 40, 80, 120),
)
IMAGES = Metric("onecard_images_total", "counter", "Pictures that were decoded and fitted for the model.")
IMAGES_REFUSED = Metric(
    "onecard_images_refused_total",
    "counter",
    "Pictures that were refused, by `reason`: a word of the guard or the media connector, `other` beyond 32 of them.",
    ("reason",),
)
IMAGE_PIXELS = Metric(
    "onecard_image_pixels",
    "histogram",
    "Pixels of a picture; `stage` is received (as it was sent) or fitted (as the model sees it).",
    ("stage",),
    _PIXELS,
)
IMAGE_BYTES = Metric(
    "onecard_image_bytes",
    "histogram",
    "Bytes of a picture as it was sent, after base64.",
    (),
    (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000),
)
IMAGE_SECONDS = Metric(
    "onecard_image_seconds",
    "histogram",
    "Seconds for a picture; `stage` is fetch (from the web or base64), decode, or process (orient, tone, fit).",
    ("stage",),
    _IMAGE_S,
)

RECORDED = (
    REQUESTS,
    REQUEST_SECONDS,
    FIRST_TOKEN_SECONDS,
    REFUSAL_SECONDS,
    TOKENS_PER_SECOND,
    TOKENS,
    ANSWERS,
    IN_FLIGHT,
    QUEUED,
    QUEUE_SECONDS,
    RETRY_AFTER_SECONDS,
    IMAGES,
    IMAGES_REFUSED,
    IMAGE_PIXELS,
    IMAGE_BYTES,
    IMAGE_SECONDS,
)

# --- read at scrape time from `/onecard/status`: by server, waiting room and exporter ------------------------------

STATE = Metric(
    "onecard_state",
    "gauge",
    "1 for the state that onecard is in and 0 for the others: starting, warming, ready, stalled (it may only be slow), "
    "draining, asleep, restarting, hung (the process is there and does not answer) or stopped.",
    ("state",),
)
CARDS = Metric(
    "onecard_cards",
    "gauge",
    "Where several cards have a server each: how many of these are in each `state`, which are those of `onecard_state` that a "
    "server can be in, and lost (given up, the others go on).",
    ("state",),
)
RESTARTS = Metric("onecard_restarts_total", "counter", "Restarts of the server process since the supervisor began.")
WAKES = Metric(
    "onecard_wakes_total",
    "counter",
    "Times that a sleeping onecard was woken, by a request or a command, since it began.",
)
SWAPS = Metric(
    "onecard_swaps_total", "counter", "Times that another model was loaded in the place of one, since it began."
)
WAKE_SECONDS = Metric(
    "onecard_wake_seconds",
    "gauge",
    "Seconds from the decision to load a model, after sleep or in another's place, to ready; of the last time, absent before.",
)
BUILD_INFO = Metric("onecard_build_info", "gauge", "Always 1; `version` is onecard's.", ("version",))
PLAN_INFO = Metric(
    "onecard_plan_info",
    "gauge",
    "Always 1; the profile, the model and the card that are planned for (`gpu` is CPU where there is none).",
    ("profile", "model", "gpu"),
)
PLAN_LIMIT = Metric(
    "onecard_plan_limit",
    "gauge",
    "What the plan admits; `limit` is kv_tokens, max_model_len, max_num_seqs, image_tokens, concurrent_images, "
    "max_image_pixels, max_images_per_request or max_body_mib.",
    ("limit",),
)
PLAN_DECODE = Metric(
    "onecard_plan_decode_tokens_per_second",
    "gauge",
    "The decode speed of one request that the plan expects; absent on CPUs.",
)
MEMORY_PREDICTED = Metric(
    "onecard_memory_predicted_bytes",
    "gauge",
    "Bytes of the card that the plan gives to each `component`: weights, buffers, activations, vision_encoder, encoder_cache, "
    "logits, cuda_graphs, context, fragmentation, headroom, kv_cache. They sum to the plan's total.",
    ("component",),
)
MEMORY_MEASURED = Metric(
    "onecard_memory_measured_bytes",
    "gauge",
    "Bytes of the card that each `component` was measured to take after the start.",
    ("component",),
)
FROM_STATUS = (
    STATE,
    CARDS,
    RESTARTS,
    WAKES,
    SWAPS,
    WAKE_SECONDS,
    BUILD_INFO,
    PLAN_INFO,
    PLAN_LIMIT,
    PLAN_DECODE,
    MEMORY_PREDICTED,
    MEMORY_MEASURED,
)

# --- the exporter's own --------------------------------------------------------------------------------------------

UP = Metric("onecard_up", "gauge", "1 when supervisor or server answers on the port, 0 when nobody does.")
STATE_SECONDS = Metric(
    "onecard_state_seconds_total",
    "counter",
    "Seconds in each `state` since the exporter began to watch.",
    ("state",),
)
START_SECONDS = Metric(
    "onecard_start_seconds",
    "gauge",
    "Seconds that each `step` of the last start took; their sum is the time to ready.",
    ("step",),
)
STARTED_AT = Metric("onecard_supervisor_start_time_seconds", "gauge", "When the supervisor began, as Unix time.")
DISK_FREE = Metric(
    "onecard_disk_free_bytes",
    "gauge",
    "Free bytes of the disk that holds each `folder`: state (log and timings), model or cache (downloads).",
    ("folder",),
)
DISK_SIZE = Metric("onecard_disk_size_bytes", "gauge", "Size of the disk that holds each `folder`.", ("folder",))
PROCESS_MEMORY = Metric(
    "onecard_process_resident_memory_bytes",
    "gauge",
    "Resident memory of onecard's processes by `role`: supervisor, server (the API), engine (and its workers), exporter, "
    "other.",
    ("role",),
)
PROCESS_FILES = Metric(
    "onecard_process_open_fds", "gauge", "Open file descriptors of onecard's processes by `role`.", ("role",)
)
PROCESS_THREADS = Metric("onecard_process_threads", "gauge", "Threads of onecard's processes by `role`.", ("role",))
HOST_MEMORY_AVAILABLE = Metric("onecard_host_memory_available_bytes", "gauge", "Memory that the machine has to give.")
OF_HOST = (
    UP,
    STATE_SECONDS,
    START_SECONDS,
    STARTED_AT,
    DISK_FREE,
    DISK_SIZE,
    PROCESS_MEMORY,
    PROCESS_FILES,
    PROCESS_THREADS,
    HOST_MEMORY_AVAILABLE,
)

NVML_UP = Metric("onecard_nvml_up", "gauge", "1 when NVML answers, 0 when there is no driver or it fails.")
GPU_UP = Metric("onecard_gpu_up", "gauge", "1 when the GPU answers, 0 when it did once and no longer does.", ("gpu",))
GPU_INFO = Metric("onecard_gpu_info", "gauge", "Always 1; what the GPU is.", ("gpu", "name", "uuid", "driver"))
GPU_MEMORY_TOTAL = Metric("onecard_gpu_memory_total_bytes", "gauge", "Memory of the GPU.", ("gpu",))
GPU_MEMORY_USED = Metric(
    "onecard_gpu_memory_used_bytes", "gauge", "Memory in use by anyone: onecard, the desktop, games.", ("gpu",)
)
GPU_BUSY = Metric("onecard_gpu_utilization_ratio", "gauge", "Share of time in which a kernel ran, 0 to 1.", ("gpu",))
GPU_MEMORY_BUSY = Metric(
    "onecard_gpu_memory_utilization_ratio",
    "gauge",
    "Share of time in which memory was read or written, 0 to 1.",
    ("gpu",),
)
GPU_TEMPERATURE = Metric("onecard_gpu_temperature_celsius", "gauge", "Temperature of the GPU's core.", ("gpu",))
GPU_TEMPERATURE_LIMIT = Metric(
    "onecard_gpu_temperature_limit_celsius", "gauge", "Temperature at which the GPU slows itself down.", ("gpu",)
)
GPU_POWER = Metric("onecard_gpu_power_watts", "gauge", "Power that the GPU draws.", ("gpu",))
GPU_POWER_LIMIT = Metric("onecard_gpu_power_limit_watts", "gauge", "Power that the GPU may draw.", ("gpu",))
GPU_ENERGY = Metric(
    "onecard_gpu_energy_joules_total",
    "counter",
    "Energy that the GPU has used: its own counter where it has one, else power summed over time by the exporter.",
    ("gpu",),
)
GPU_CLOCK = Metric("onecard_gpu_clock_hertz", "gauge", "Clock of each `domain`: sm or memory.", ("gpu", "domain"))
GPU_CLOCK_MAX = Metric("onecard_gpu_clock_max_hertz", "gauge", "Highest clock of each `domain`.", ("gpu", "domain"))
GPU_THROTTLED = Metric(
    "onecard_gpu_throttled",
    "gauge",
    "1 while the clocks are held down for the `reason`: sw_power_cap, hw_slowdown, sw_thermal, hw_thermal or hw_power_brake.",
    ("gpu", "reason"),
)
GPU_FAN = Metric("onecard_gpu_fan_ratio", "gauge", "Speed of the fan, 0 to 1; absent where there is none.", ("gpu",))
GPU_PCIE_BYTES = Metric(
    "onecard_gpu_pcie_bytes_per_second",
    "gauge",
    "PCIe traffic as the GPU sees it, over the last 20 ms; `direction` is received or sent.",
    ("gpu", "direction"),
)
GPU_PCIE_GENERATION = Metric("onecard_gpu_pcie_generation", "gauge", "Generation of the PCIe link now.", ("gpu",))
GPU_PCIE_WIDTH = Metric("onecard_gpu_pcie_lanes", "gauge", "Lanes of the PCIe link now.", ("gpu",))
GPU_PCIE_WIDTH_MAX = Metric("onecard_gpu_pcie_lanes_max", "gauge", "Lanes that GPU and slot could use.", ("gpu",))
GPU_XID = Metric(
    "onecard_gpu_xid_errors_total",
    "counter",
    "Critical errors that the driver has reported since the exporter began, by NVIDIA's number (`xid`).",
    ("gpu", "xid"),
)
OF_GPU = (
    NVML_UP,
    GPU_UP,
    GPU_INFO,
    GPU_MEMORY_TOTAL,
    GPU_MEMORY_USED,
    GPU_BUSY,
    GPU_MEMORY_BUSY,
    GPU_TEMPERATURE,
    GPU_TEMPERATURE_LIMIT,
    GPU_POWER,
    GPU_POWER_LIMIT,
    GPU_ENERGY,
    GPU_CLOCK,
    GPU_CLOCK_MAX,
    GPU_THROTTLED,
    GPU_FAN,
    GPU_PCIE_BYTES,
    GPU_PCIE_GENERATION,
    GPU_PCIE_WIDTH,
    GPU_PCIE_WIDTH_MAX,
    GPU_XID,
)

ALL = (*RECORDED, *FROM_STATUS, *OF_HOST, *OF_GPU)
