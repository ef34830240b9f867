"""Is it well, how busy, how fast, how much room, what does it cost: the page to leave open."""

from deploy.grafana.panels import Page, Row, bars, lines, name, number, quantiles

_M = 'machine="$machine"'

PAGE = Page(
    "onecard-overview",
    "onecard: overview",
    "Is it well, how busy is it, how fast, how much room is left, what does it cost.",
    (
        Row(
            "Is it well?",
            (
                name(
                    "State",
                    f"max by (state) (onecard_state{{{_M}}}) == 1",
                    "{{state}}",
                    "ready is what it should say. What the others mean, and how long they usually last: `onecard status`.",
                ),
                number(
                    "Ready in the last 24 hours",
                    f"avg_over_time(machine:onecard_ready:bool{{{_M}}}[24h])",
                    "percentunit",
                    "Share of the time in which a question was answered. Starts and restarts are what is missing.",
                    steps=((None, "red"), (0.95, "orange"), (0.99, "green")),
                ),
                number(
                    "Restarts in the last 24 hours",
                    f"max(increase(onecard_restarts_total{{{_M}}}[24h]))",
                    "none",
                    "How often the server died and was started again. Runbook: docs/runbooks/restarting.md",
                    steps=((None, "green"), (0.5, "orange"), (3, "red")),
                ),
                number(
                    "Alerts",
                    f'count(ALERTS{{{_M},alertstate="firing"}}) or vector(0)',
                    "none",
                    "Alerts that fire now; each names its page in docs/runbooks/.",
                    steps=((None, "green"), (1, "red")),
                ),
                number(
                    "Requests that fail",
                    f"machine:onecard_failed:ratio5m{{{_M}}}",
                    "percentunit",
                    "Of those that ask for an answer, in the last 5 minutes. Refusals do not count: they are answers too.",
                    steps=((None, "green"), (0.001, "orange"), (0.05, "red")),
                ),
                number(
                    "Requests refused for want of room",
                    f"machine:onecard_overload:ratio5m{{{_M}}}",
                    "percentunit",
                    "More is asked than the card can give. The page 'what to change' says which limit it is.",
                    steps=((None, "green"), (0.01, "orange"), (0.1, "red")),
                ),
            ),
        ),
        Row(
            "How busy?",
            (
                lines(
                    "Requests for an answer",
                    [(f"machine_outcome:onecard_requests:rate5m{{{_M}}}", "{{outcome}}")],
                    "reqps",
                    "A second, by what became of them.",
                    stacked=True,
                ),
                lines(
                    "Requests at once",
                    [
                        (f"sum(vllm:num_requests_running{{{_M}}})", "the engine works on"),
                        (f"sum(vllm:num_requests_waiting{{{_M}}})", "wait in the engine"),
                        (f"sum(onecard_requests_queued{{{_M}}})", "wait in the guard"),
                        (f'machine_limit:onecard_plan:limit{{{_M},limit="max_num_seqs"}}', "the plan's max_num_seqs"),
                    ],
                    "short",
                    "What waits in the engine holds no memory yet; what waits in the guard has not been decoded yet.",
                ),
            ),
        ),
        Row(
            "How fast?",
            (
                lines(
                    "Time to the first token",
                    quantiles("onecard_first_token_seconds"),
                    "s",
                    "As a client sees it who has the answer streamed: queue, picture and prompt included.",
                    span=8,
                ),
                lines(
                    "Time between tokens",
                    quantiles("vllm:inter_token_latency_seconds"),
                    "s",
                    "Between two tokens of one answer. People read some 10 tokens a second: 0.1 s.",
                    span=8,
                ),
                lines(
                    "Tokens a second, all answers together",
                    [
                        (f"machine:vllm_generation_tokens:rate5m{{{_M}}}", "answers"),
                        (f"sum(rate(vllm:prompt_tokens_total{{{_M}}}[$__rate_interval]))", "prompts and pictures"),
                    ],
                    "short",
                    "What the card gets done.",
                    span=8,
                ),
            ),
        ),
        Row(
            "How much room?",
            (
                bars(
                    "Memory of the card, by plan",
                    [(f"machine_component:onecard_memory_predicted:bytes{{{_M}}}", "{{component}}")],
                    "bytes",
                    "What the plan gave to each part before anything was loaded. The page 'GPU and memory' compares.",
                    span=8,
                ),
                lines(
                    "KV cache in use",
                    [(f"machine:vllm_kv_cache_usage:ratio{{{_M}}}", "in use")],
                    "percentunit",
                    "When it is full, answers are thrown away and repeated (preemptions).",
                    span=8,
                    top=1,
                ),
                lines(
                    "Disk free",
                    [(f"min by (folder) (onecard_disk_free_bytes{{{_M}}})", "{{folder}}")],
                    "bytes",
                    "Of the disks that hold the log, the model and the downloads.",
                    span=8,
                ),
            ),
        ),
        Row(
            "What does it cost?",
            (
                number(
                    "Power",
                    f"sum(onecard_gpu_power_watts{{{_M}}})",
                    "watt",
                    "What the GPU draws; the rest of the machine comes on top.",
                    span=8,
                ),
                number(
                    "Energy of an answer",
                    f"machine:onecard_energy_per_answer:joules5m{{{_M}}}",
                    "joule",
                    "3,600 J are a watt-hour. Answers at once share the card: a busy one costs less for each.",
                    span=8,
                ),
                number(
                    "Energy of 1,000 tokens",
                    f"machine:onecard_energy_per_1000_tokens:joules5m{{{_M}}}",
                    "joule",
                    "Of answers; the prompts' work is included.",
                    span=8,
                ),
            ),
        ),
    ),
)
