"""Pictures: how many, how large, how long each step takes, what is refused."""

from deploy.grafana.panels import Page, Row, lines, number, quantiles, spread

_M = 'machine="$machine"'
_RATE = "[$__rate_interval]"

PAGE = Page(
    "onecard-images",
    "onecard: images",
    "What people send, what the model sees of it, and what that takes.",
    (
        Row(
            "How many?",
            (
                number(
                    "Pictures a minute",
                    f"60 * sum(rate(onecard_images_total{{{_M}}}[5m]))",
                    "short",
                    "Decoded and fitted for the model.",
                    span=6,
                ),
                number(
                    "Share of the prompts' tokens that are pictures",
                    f'sum(rate(onecard_tokens_total{{{_M},kind="image"}}[5m])) '
                    f"/ (sum(rate(vllm:prompt_tokens_total{{{_M}}}[5m])) > 0) or vector(0)",
                    "percentunit",
                    "Pictures are the larger part of most prompts. A smaller pixel budget makes them cheaper.",
                    span=6,
                ),
                number(
                    "Found in the cache of processed pictures",
                    f"sum(rate(vllm:mm_cache_hits_total{{{_M}}}[5m])) "
                    f"/ (sum(rate(vllm:mm_cache_queries_total{{{_M}}}[5m])) > 0) or vector(0)",
                    "percentunit",
                    "Several questions about one picture hit it; distinct pictures cannot.",
                    span=6,
                ),
                number(
                    "Refused a minute",
                    f"60 * (sum(rate(onecard_images_refused_total{{{_M}}}[5m])) or vector(0))",
                    "short",
                    "By reason further down.",
                    steps=((None, "green"), (1, "orange")),
                    span=6,
                ),
            ),
        ),
        Row(
            "How large?",
            (
                spread(
                    "Pixels as they were sent",
                    f'sum by (le) (increase(onecard_image_pixels_bucket{{{_M},stage="received"}}{_RATE}))',
                    "short",
                    "A phone's photo has 12 million.",
                ),
                spread(
                    "Pixels as the model sees them",
                    f'sum by (le) (increase(onecard_image_pixels_bucket{{{_M},stage="fitted"}}{_RATE}))',
                    "short",
                    "At most the profile's max_image_pixels; 1,024 of them are a token.",
                ),
                lines(
                    "Bytes of a picture",
                    quantiles("onecard_image_bytes"),
                    "bytes",
                    "As sent. Clients that shrink pictures first (ours does) save their upload.",
                ),
                lines(
                    "Pixels that are kept",
                    [
                        (
                            f'sum(rate(onecard_image_pixels_sum{{{_M},stage="fitted"}}{_RATE})) '
                            f'/ (sum(rate(onecard_image_pixels_sum{{{_M},stage="received"}}{_RATE})) > 0) or vector(1)',
                            "kept",
                        )
                    ],
                    "percentunit",
                    "Below a half, most of the detail is lost on the way: small print in large pictures will not be read.",
                    top=1,
                ),
            ),
        ),
        Row(
            "How long?",
            (
                lines(
                    "Seconds of each step, 90%",
                    [
                        (
                            f"histogram_quantile(0.9, sum by (le, stage) (rate(onecard_image_seconds_bucket{{{_M}}}{_RATE})))",
                            "{{stage}}",
                        )
                    ],
                    "s",
                    "fetch is base64, or the web where that is allowed; process turns, tones and fits.",
                ),
                lines(
                    "Seconds of CPU a second, by step",
                    [(f"sum by (stage) (rate(onecard_image_seconds_sum{{{_M}}}{_RATE}))", "{{stage}}")],
                    "short",
                    "1 is one core that does nothing else. Near the number of cores, pictures hold the card back.",
                    stacked=True,
                ),
            ),
        ),
        Row(
            "What is refused?",
            (
                lines(
                    "Refused, by reason",
                    [
                        (
                            f"sum by (reason) (rate(onecard_images_refused_total{{{_M}}}{_RATE})) "
                            "or label_replace(vector(0), 'reason', 'none', '', '')",
                            "{{reason}}",
                        )
                    ],
                    "reqps",
                    "What to do about each: docs/runbooks/refusing.md",
                    span=24,
                ),
            ),
        ),
    ),
)
