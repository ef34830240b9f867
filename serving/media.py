"""Our media connector, registered with vLLM as `onecard`: every picture of every route comes through here.

It decides where a picture may come from, leaves the work to images/, and turns refusals into vLLM's errors. Most bad pictures
have been refused by the guard already; here no route of vLLM's gets around the check.
"""

import asyncio
import functools
import logging
from typing import Any, NoReturn

from serving import metrics
from serving.images.data_url import is_data_url
from serving.images.errors import ImageError
from serving.images.fetch import Fetcher
from serving.images.grid import Grid
from serving.images.kept import Picture
from serving.images.seen import seen_sizes
from serving.images.workshop import Workshop
from serving.ipc.launch import Launch, current_launch
from serving.models.checkpoint import read_processor
from serving.models.files import Folder

logger = logging.getLogger("vllm.onecard")

URLS_ARE_OFF = (
    "This server does not fetch pictures from the web: send the picture itself as a data URL (`onecard ask photo.jpg` "
    "and the Python client do). Whoever runs the server can allow http(s) URLs with `onecard serve --allow-image-urls` "
    "or ONECARD_ALLOW_IMAGE_URLS=1."
)
PICTURES_ONLY = "This server takes pictures only, no video and no audio."


class PictureSource:
    """From an `image_url` to a picture fitted to the model's grid. Knows nothing of vLLM."""

    def __init__(self, grid: Grid | None, fetcher: Fetcher | None) -> None:
        self._workshop = Workshop(grid)
        self._fetcher = fetcher

    async def picture(self, url: str) -> Picture:
        """Raises ImageError. Reports the size at which the model sees the picture (images/seen.py)."""
        seen = seen_sizes()
        place = seen.expect()
        if is_data_url(url):
            picture = await self._workshop.fit(url)
        elif self._fetcher is None:
            raise ImageError(URLS_ARE_OFF, cause="it is a web address, and those are switched off")
        else:
            picture = await self._workshop.fit(await self._fetcher.fetch(url))
        if picture.seen_size is not None:
            seen.report(place, picture.seen_size)
        return picture


def planned_grid(launch: Launch) -> Grid | None:
    """The grid on which this launch's model sees pictures. None where its processor is not Qwen's, or the user's own
    `mm_processor_kwargs` set more than the size: then the processor does the resizing."""
    processor = read_processor(Folder(launch.model_folder))
    told = launch.plan.engine_args.get("mm_processor_kwargs", {})
    if not str(processor.get("image_processor_type")).startswith("Qwen2VLImageProcessor") or set(told) - {"size"}:
        return None
    # Older processors call their bounds `min_pixels` and `max_pixels`; the plan always sets both edges.
    size = processor.get("size", {}) | told.get("size", {})
    side = processor.get("patch_size", 14) * processor.get("merge_size", 2)  # the class's own defaults
    return Grid(side, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])


def register_connector() -> None:
    """Registers the connector; `VLLM_MEDIA_CONNECTOR=onecard` chooses it (ipc/launch.py)."""
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector
    from vllm.multimodal.media.base import MediaWithBytes

    @functools.cache
    def source(allowed_hosts: frozenset[str]) -> PictureSource:
        """Made at the first picture, so only in the process that takes requests."""
        launch = current_launch()
        if launch is None:
            raise RuntimeError("the connector works only in a server that `onecard serve` started")
        return PictureSource(planned_grid(launch), Fetcher(allowed_hosts) if launch.allow_image_urls else None)

    # vLLM 0.26 does not take our digest as the cache key; it hashes the bare array itself.
    takes_digests = "io_config" in MediaWithBytes.__dataclass_fields__

    class RefusedError(VLLMValidationError):  # type: ignore[misc]
        def __str__(self) -> str:
            """The message alone: vLLM would append the parameter, which the error body names anyway."""
            return str(self.args[0])

    def refuse(message: str) -> NoReturn:
        raise RefusedError(message, parameter="image_url")

    class OnecardMediaConnector(MediaConnector):  # type: ignore[misc]
        """vLLM makes one for each request; all share one PictureSource and its threads. Which hosts pictures may come from is
        set by vLLM's own `--allowed-media-domains`."""

        async def fetch_image_async(self, image_url: str, **_: Any) -> Any:
            try:
                hosts = frozenset(host.lower() for host in self.allowed_media_domains)
                picture = await source(hosts).picture(image_url)
            except ImageError as error:
                logger.warning("a picture was refused: %s", error.cause)
                metrics.record_image_refused("connector")
                refuse(str(error))
            return MediaWithBytes(picture.pixels, picture.digest) if takes_digests else picture.pixels

        def fetch_image(self, image_url: str, **_: Any) -> Any:
            return asyncio.run(self.fetch_image_async(image_url))

        async def load_from_url_async(self, *_: Any, **__: Any) -> NoReturn:
            refuse(PICTURES_ONLY)

        def load_from_url(self, *_: Any, **__: Any) -> NoReturn:
            refuse(PICTURES_ONLY)

    MEDIA_CONNECTOR_REGISTRY.register("onecard")(OnecardMediaConnector)
