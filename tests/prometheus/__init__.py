"""A real Prometheus and promtool: those of this machine, else Debian's package, unpacked into `.cache/` and not installed."""
