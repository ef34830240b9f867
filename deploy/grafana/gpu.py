"""The card: plan against reality, and what holds it back."""

from deploy.grafana.panels import Page, Row, bars, lines, name, number, times

_M = 'machine="$machine"'

PAGE = Page(
    "onecard-gpu",
    "onecard: GPU and memory",
    "What the plan predicted and what was measured; what the card does, and what holds it back.",
    (
        Row(
            "The card",
            (
                name("GPU", f"onecard_gpu_info{{{_M}}}", "{{name}}", "As the driver names it.", span=6),
                name(
                    "Planned for",
                    f"max by (profile, gpu) (onecard_plan_info{{{_M}}})",
                    "{{profile}} ({{gpu}})",
                    "The profile, and the card that it plans for.",
                    span=6,
                ),
                number(
                    "Memory free",
                    f"sum(onecard_gpu_memory_total_bytes{{{_M}}} - onecard_gpu_memory_used_bytes{{{_M}}})",
                    "bytes",
                    "What nobody uses now. A little is meant: the plan leaves headroom.",
                    steps=((None, "red"), (128 * 2**20, "green")),
                    span=6,
                ),
                number(
                    "Errors of the driver (XID)",
                    f"sum(onecard_gpu_xid_errors_total{{{_M}}}) or vector(0)",
                    "none",
                    "Since the exporter began. Runbook: docs/runbooks/gpu-lost.md",
                    steps=((None, "green"), (1, "red")),
                    span=6,
                ),
            ),
        ),
        Row(
            "Memory: plan against reality",
            (
                bars(
                    "Predicted",
                    [(f"machine_component:onecard_memory_predicted:bytes{{{_M}}}", "{{component}}")],
                    "bytes",
                    "From the checkpoint's headers alone, before anything was loaded.",
                ),
                bars(
                    "Measured",
                    [(f"machine_component:onecard_memory_measured:bytes{{{_M}}}", "{{component}}")],
                    "bytes",
                    "After the start. 0 where a part was not measured, and on a machine without a GPU.",
                ),
                lines(
                    "Memory of the card",
                    [
                        (f"sum(onecard_gpu_memory_used_bytes{{{_M}}})", "in use by anyone"),
                        (f"sum(onecard_gpu_memory_total_bytes{{{_M}}})", "the card has"),
                        (f"sum(machine_component:onecard_memory_predicted:bytes{{{_M}}})", "the plan takes"),
                        (
                            f"sum(machine_component:onecard_memory_measured:bytes{{{_M}}})",
                            "onecard was measured to take",
                        ),
                    ],
                    "bytes",
                    "In use over the plan's line: other programs. Creeping up over days: docs/runbooks/memory-above-plan.md",
                ),
                lines(
                    "Memory of the machine",
                    [
                        (f"sum by (role) (onecard_process_resident_memory_bytes{{{_M}}})", "{{role}}"),
                        (f"min(onecard_host_memory_available_bytes{{{_M}}})", "available"),
                    ],
                    "bytes",
                    "Resident memory of onecard's processes. Growth that never ends is a leak: please report it.",
                ),
            ),
        ),
        Row(
            "What it does",
            (
                lines(
                    "Utilization",
                    [
                        (f"max by (gpu) (onecard_gpu_utilization_ratio{{{_M}}})", "kernels {{gpu}}"),
                        (f"max by (gpu) (onecard_gpu_memory_utilization_ratio{{{_M}}})", "memory {{gpu}}"),
                    ],
                    "percentunit",
                    "Share of the time. Low while requests wait: the CPU holds the card back (page 'images').",
                    top=1,
                    span=8,
                ),
                lines(
                    "Clocks",
                    [
                        (f"max by (gpu, domain) (onecard_gpu_clock_hertz{{{_M}}})", "{{domain}} {{gpu}}"),
                        (f"max by (gpu, domain) (onecard_gpu_clock_max_hertz{{{_M}}})", "{{domain}} {{gpu}} at most"),
                    ],
                    "hertz",
                    "An idle card clocks down. Under load it should be near its most.",
                    span=8,
                ),
                lines(
                    "PCIe traffic",
                    [(f"max by (gpu, direction) (onecard_gpu_pcie_bytes_per_second{{{_M}}})", "{{direction}} {{gpu}}")],
                    "Bps",
                    "Pictures go to the card, answers come back. A few MB/s are usual.",
                    span=8,
                ),
            ),
        ),
        Row(
            "What holds it back",
            (
                lines(
                    "Temperature",
                    [
                        (f"max by (gpu) (onecard_gpu_temperature_celsius{{{_M}}})", "GPU {{gpu}}"),
                        (f"max by (gpu) (onecard_gpu_temperature_limit_celsius{{{_M}}})", "slows down at {{gpu}}"),
                    ],
                    "celsius",
                    "Runbook: docs/runbooks/gpu-hot.md",
                    span=8,
                ),
                lines(
                    "Power",
                    [
                        (f"max by (gpu) (onecard_gpu_power_watts{{{_M}}})", "GPU {{gpu}}"),
                        (f"max by (gpu) (onecard_gpu_power_limit_watts{{{_M}}})", "may draw {{gpu}}"),
                    ],
                    "watt",
                    "At its limit the card is as fast as it is allowed to be. A lower limit often costs little speed.",
                    span=8,
                ),
                lines(
                    "PCIe lanes",
                    [
                        (f"max by (gpu) (onecard_gpu_pcie_lanes{{{_M}}})", "now {{gpu}}"),
                        (f"max by (gpu) (onecard_gpu_pcie_lanes_max{{{_M}}})", "possible {{gpu}}"),
                        (f"max by (gpu) (onecard_gpu_pcie_generation{{{_M}}})", "generation {{gpu}}"),
                    ],
                    "short",
                    "Fewer than possible under load: the card sits in the wrong slot, or loosely.",
                    span=8,
                ),
                times(
                    "Held down by",
                    [(f"max by (gpu, reason) (onecard_gpu_throttled{{{_M}}})", "{{reason}} {{gpu}}")],
                    "sw_power_cap is normal under load. The others are heat or power: docs/runbooks/gpu-throttled.md",
                ),
            ),
        ),
    ),
)
