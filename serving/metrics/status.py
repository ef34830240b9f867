"""`/onecard/status` as metrics: state, restarts, the plan and its limits, memory predicted and measured.

The server process, the waiting room (while the engine loads) and the exporter (always) yield them alike.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp

from serving import __version__
from serving.metrics import catalog
from serving.metrics.families import counter, gauge

STATES = ("starting", "warming", "ready", "stalled", "draining", "asleep", "restarting", "hung", "stopped")
_OF_A_CARD = ("starting", "warming", "ready", "draining", "asleep", "restarting", "lost")
_MIB = 2**20
_CAPACITY = ("kv_tokens", "max_model_len", "max_num_seqs", "image_tokens", "concurrent_images")
_LIMITS = ("max_image_pixels", "max_images_per_request", "max_body_mib")


class StatusCollector(Collector):
    """`status` gives the JSON of `/onecard/status`, or what is known of it; None where not even the state is.

    It must not collect the registry that this collector is in.
    """

    def __init__(self, status: Callable[[], dict[str, Any] | None]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status() or {}
        yield gauge(catalog.BUILD_INFO, [((__version__,), 1)])
        if "state" in status:
            yield _state(status["state"])
        if "plan" in status:
            yield from _plan(status["plan"])
        if "restarts" in status:
            yield _cards(status.get("cards", []))
            yield counter(catalog.RESTARTS, [((), status["restarts"])])
            yield counter(catalog.WAKES, [((), status["wakes"])])
            yield counter(catalog.SWAPS, [((), status["swaps"])])
            yield gauge(catalog.WAKE_SECONDS, [] if status["wake_s"] is None else [((), status["wake_s"])])
            yield _memory(catalog.MEMORY_MEASURED, status["measured"].get("memory_mib", {}))

    def describe(self) -> Iterable[Metric]:
        """Nothing is read to register it."""
        return ()


def _state(current: str) -> GaugeMetricFamily:
    return gauge(catalog.STATE, [((state,), float(state == current)) for state in dict.fromkeys((*STATES, current))])


def _cards(cards: list[dict[str, Any]]) -> GaugeMetricFamily:
    """Nothing where there is one server."""
    found = Counter(card["state"] for card in cards)
    return gauge(catalog.CARDS, [((state,), found[state]) for state in _OF_A_CARD] if cards else [])


def _plan(plan: dict[str, Any]) -> Iterator[Metric]:
    yield gauge(catalog.PLAN_INFO, [((plan["profile"], plan["model"], plan["gpu"]["name"]), 1)])
    limits = {name: plan["capacity"][name] for name in _CAPACITY} | {name: plan["limits"][name] for name in _LIMITS}
    yield gauge(catalog.PLAN_LIMIT, [((name,), value) for name, value in limits.items()])
    speed = plan["expected"]["decode_tokens_per_s"]
    yield gauge(catalog.PLAN_DECODE, [] if speed is None else [((), speed)])
    yield _memory(catalog.MEMORY_PREDICTED, plan["memory_mib"])


def _memory(metric: catalog.Metric, mib: dict[str, Any]) -> GaugeMetricFamily:
    """The total is their sum, and would be counted twice."""
    parts = [(name, value) for name, value in mib.items() if name != "total" and isinstance(value, int | float)]
    return gauge(metric, [((name,), value * _MIB) for name, value in parts])


def status_metrics(status: Callable[[], dict[str, Any]]) -> ASGIApp:
    """`/metrics` of who has nothing but a status: the waiting room, while the engine loads."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    app: ASGIApp = make_asgi_app(registry)
    return app
