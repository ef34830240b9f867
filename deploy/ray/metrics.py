"""Our figures beside Ray's: every sample of a replica's `/metrics` that is onecard's own becomes a gauge of Ray's, with its
name and labels. Ray's exporter on each node tells them with `ray_` before the name, and the replica among the labels.
"""

import asyncio
import contextlib
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

_PREFIX = "onecard_"


class Bridge:
    """Looks at the server's figures every `every_s` seconds, from `start` to `stop`. `replica` becomes a label; `key` is what
    the server asks for, if anything."""

    def __init__(self, url: str, every_s: float, replica: str, key: bytes | None = None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key.decode()}"} if key else {}
        self._replica = replica
        self._every_s = every_s
        self._gauges: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins in the loop that runs; call it from there."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task:
            self._task.cancel()

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=10, headers=self._headers) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):  # it is restarting; its next figures will do
                    reply = await client.get("/metrics")
                    if reply.status_code == 200:
                        self._tell(reply.text)
                await asyncio.sleep(self._every_s)

    def _tell(self, text: str) -> None:
        from ray.util.metrics import Gauge

        for family in text_string_to_metric_families(text):
            if not family.name.startswith(_PREFIX):
                continue
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                gauge = self._gauges.get(sample.name)
                if gauge is None:
                    gauge = Gauge(sample.name, description=family.documentation, tag_keys=("replica", *sample.labels))
                    self._gauges[sample.name] = gauge
                gauge.set(sample.value, tags={"replica": self._replica, **sample.labels})
