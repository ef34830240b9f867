"""What to change: which limit of the plan is the one that users run into, and which setting moves it."""

from deploy.grafana.panels import Page, Row, bars, lines, shares, words

_M = 'machine="$machine"'
_ANSWERS = 'route=~"/v1/.*completions|/ask"'


def _limit(name: str) -> str:
    return f'scalar(machine_limit:onecard_plan:limit{{{_M},limit="{name}"}})'


PAGE = Page(
    "onecard-change",
    "onecard: what to change",
    "Which limit of the plan do users run into, and what moves it.",
    (
        Row(
            "How near to each limit",
            (
                words(
                    "A bar near its end is a limit that users run into; the longest one is the first to change. "
                    "Before a change, `onecard plan` says what it costs: memory given to one part is taken from another."
                ),
                shares(
                    "In the last hour, at the worst",
                    [
                        (
                            f"max_over_time(machine:vllm_kv_cache_usage:ratio{{{_M}}}[1h])",
                            "KV cache: shorter --max-model-len, smaller pictures, or a 4-bit model",
                        ),
                        (
                            f"max_over_time(machine:vllm_requests_running:sum{{{_M}}}[1h]) / {_limit('max_num_seqs')}",
                            "answers at once: higher --max-num-seqs, where the KV cache has room",
                        ),
                        (
                            f"histogram_quantile(0.99, sum by (le) (increase(vllm:request_prompt_tokens_bucket{{{_M}}}[1h]))) "
                            f"/ {_limit('max_model_len')}",
                            "length of a conversation: longer --max-model-len",
                        ),
                        (
                            f"histogram_quantile(0.99, sum by (le) (increase(onecard_image_pixels_bucket{{{_M},"
                            f'stage="fitted"}}[1h]))) / {_limit("max_image_pixels")}',
                            "size of a picture: larger max_image_pixels in the profile",
                        ),
                    ],
                    "What is at the end of its bar bounds the rest.",
                    worrying=0.8,
                    bad=0.95,
                    span=24,
                ),
            ),
        ),
        Row(
            "What users notice of it",
            (
                shares(
                    "In the last hour, share of …",
                    [
                        (
                            f'(sum(increase(onecard_requests_total{{{_M},{_ANSWERS},reason=~"overloaded|queue_timeout"}}[1h])) '
                            f"or vector(0)) / (sum(increase(onecard_requests_total{{{_M},{_ANSWERS}}}[1h])) > 0)",
                            "requests refused for want of room: more room, or a smaller model",
                        ),
                        (
                            f'(sum(increase(onecard_answers_total{{{_M},finish="length"}}[1h])) or vector(0)) '
                            f"/ (sum(increase(onecard_answers_total{{{_M}}}[1h])) > 0)",
                            "answers cut off by their length: larger max_tokens (the client's, or the profile's default)",
                        ),
                        (
                            f"sum(rate(vllm:request_queue_time_seconds_sum{{{_M}}}[1h])) "
                            f"/ (sum(rate(vllm:e2e_request_latency_seconds_sum{{{_M}}}[1h])) > 0)",
                            "an answer's time spent waiting in the engine: more at once, or fewer clients",
                        ),
                        (
                            f"sum(rate(onecard_image_seconds_sum{{{_M}}}[1h])) "
                            f"/ (sum(rate(onecard_request_seconds_sum{{{_M}}}[1h])) > 0)",
                            "a request's time spent on its pictures by the CPU: clients that shrink them, more cores",
                        ),
                        (
                            f"clamp_max(sum(increase(vllm:num_preemptions_total{{{_M}}}[1h])) "
                            f"/ (sum(increase(vllm:request_success_total{{{_M}}}[1h])) > 0), 1)",
                            "answers that were thrown away and repeated: lower --max-num-seqs",
                        ),
                    ],
                    "Each is 0 on a card that has what its users need.",
                    worrying=0.05,
                    bad=0.2,
                    span=24,
                ),
            ),
        ),
        Row(
            "Is the plan itself right?",
            (
                bars(
                    "Measured less predicted, by part",
                    [
                        (
                            f"machine_component:onecard_memory_measured:bytes{{{_M}}} "
                            f"- machine_component:onecard_memory_predicted:bytes{{{_M}}}",
                            "{{component}}",
                        )
                    ],
                    "bytes",
                    "Above 0 the plan was too hopeful: docs/runbooks/memory-above-plan.md. Far below 0, for all parts "
                    "together, there is room that could become KV cache.",
                ),
                lines(
                    "Tokens a second of one answer: plan and reality",
                    [
                        (
                            "1 / histogram_quantile(0.5, sum by (le) "
                            f"(rate(vllm:request_time_per_output_token_seconds_bucket{{{_M}}}[$__rate_interval])))",
                            "half of the answers",
                        ),
                        (
                            f"max(onecard_plan_decode_tokens_per_second{{{_M}}}) or vector(0)",
                            "expected of one answer alone (0: not known)",
                        ),
                    ],
                    "short",
                    "Answers at once share the card, so less than expected is normal under load, and worth a look without it.",
                ),
            ),
        ),
    ),
)
