"""What went wrong, when, and whether something is creeping up."""

from deploy.grafana.panels import Page, Row, bars, lines, number, quantiles, times

_M = 'machine="$machine"'
_RATE = "[$__rate_interval]"

PAGE = Page(
    "onecard-reliability",
    "onecard: reliability",
    "What went wrong, when, and what creeps up before it goes wrong.",
    (
        Row(
            "States",
            (
                times(
                    "State",
                    [(f"max by (state) (onecard_state{{{_M}}})", "{{state}}")],
                    "ready should be the only long band.",
                ),
                bars(
                    "Seconds in each state, in 24 hours",
                    [(f"sum by (state) (increase(onecard_state_seconds_total{{{_M}}}[24h]))", "{{state}}")],
                    "s",
                    "As the exporter saw them.",
                    span=8,
                ),
                bars(
                    "The last start, step by step",
                    [(f"max by (step) (onecard_start_seconds{{{_M}}})", "{{step}}")],
                    "s",
                    "Where the time to ready goes. `onecard pull --warm` shortens compile and graphs.",
                    span=8,
                ),
                lines(
                    "Restarts",
                    [(f"max(onecard_restarts_total{{{_M}}})", "restarts")],
                    "none",
                    "Since the supervisor began. Runbook: docs/runbooks/restarting.md",
                    span=8,
                ),
                lines(
                    "Woken, and models exchanged",
                    [
                        (f"max(onecard_wakes_total{{{_M}}})", "woken"),
                        (f"max(onecard_swaps_total{{{_M}}})", "exchanged"),
                    ],
                    "none",
                    "Since the supervisor began. Often in an hour: a longer --idle-unload or --min-stay loads less.",
                    span=12,
                ),
                lines(
                    "Seconds to wake",
                    [(f"max(onecard_wake_seconds{{{_M}}})", "the last time")],
                    "s",
                    "What the first request after sleep, or for another model, waits. docs/sleep.md says what it is made of.",
                    span=12,
                ),
            ),
        ),
        Row(
            "Requests",
            (
                lines(
                    "What became of requests",
                    [
                        (
                            f"sum by (outcome, reason) (rate(onecard_requests_total{{{_M}}}{_RATE}))",
                            "{{outcome}} {{reason}}",
                        )
                    ],
                    "reqps",
                    "All routes, probes and scrapes included, with the reason of each refusal.",
                ),
                lines(
                    "Seconds that refused clients are told to wait",
                    quantiles("onecard_retry_after_seconds"),
                    "s",
                    "Retry-After. The SDK waits as long by itself and asks again.",
                ),
                lines(
                    "How soon refusals are sent",
                    [
                        (
                            "histogram_quantile(0.99, sum by (le, reason) "
                            f"(rate(onecard_refusal_seconds_bucket{{{_M}}}{_RATE})))",
                            "99% {{reason}}",
                        )
                    ],
                    "s",
                    "After what was read of the request sufficed. A tenth of a second is the promise; only what is too slow "
                    "itself, or has waited in the queue in vain, takes longer.",
                    span=8,
                ),
                lines(
                    "Wait for room",
                    [
                        *quantiles("onecard_queue_seconds")[1:],
                        (
                            "histogram_quantile(0.9, sum by (le) "
                            f"(rate(vllm:request_queue_time_seconds_bucket{{{_M}}}{_RATE})))",
                            "90% in the engine",
                        ),
                    ],
                    "s",
                    "In the guard, then in the engine.",
                    span=8,
                ),
                lines(
                    "Answers thrown away and repeated",
                    [(f"60 * sum(rate(vllm:num_preemptions_total{{{_M}}}[5m]))", "a minute")],
                    "short",
                    "Preemptions: the KV cache was full. Runbook: docs/runbooks/preempting.md",
                    span=8,
                ),
            ),
        ),
        Row(
            "What creeps up",
            (
                lines(
                    "Resident memory",
                    [(f"sum by (role) (onecard_process_resident_memory_bytes{{{_M}}})", "{{role}}")],
                    "bytes",
                    "By process. Flat after the first hours is well.",
                    span=8,
                ),
                lines(
                    "Open files",
                    [(f"sum by (role) (onecard_process_open_fds{{{_M}}})", "{{role}}")],
                    "short",
                    "A client that never closes shows here.",
                    span=8,
                ),
                lines(
                    "Threads",
                    [(f"sum by (role) (onecard_process_threads{{{_M}}})", "{{role}}")],
                    "short",
                    "Flat is well.",
                    span=8,
                ),
            ),
        ),
        Row(
            "Is it watched?",
            (
                number(
                    "The port is answered",
                    f"max(onecard_up{{{_M}}})",
                    "bool_yes_no",
                    "By the server, or by the supervisor while the server cannot. Runbook: docs/runbooks/down.md",
                    steps=((None, "red"), (1, "green")),
                    span=6,
                ),
                number(
                    "The server is scraped",
                    f'max(up{{{_M},job="onecard"}})',
                    "bool_yes_no",
                    "Prometheus reaches port 8000.",
                    steps=((None, "red"), (1, "green")),
                    span=6,
                ),
                number(
                    "The exporter is scraped",
                    f'max(up{{{_M},job="onecard-exporter"}})',
                    "bool_yes_no",
                    "Prometheus reaches port 8001. Runbook: docs/runbooks/exporter-down.md",
                    steps=((None, "red"), (1, "green")),
                    span=6,
                ),
                number(
                    "NVML answers",
                    f"max(onecard_nvml_up{{{_M}}})",
                    "bool_yes_no",
                    "Without a GPU it never does. Runbook: docs/runbooks/gpu-lost.md",
                    steps=((None, "orange"), (1, "green")),
                    span=6,
                ),
            ),
        ),
    ),
)
