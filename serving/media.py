"""Our media connector, registered with vLLM under the name `onecard`: the second lock on fetching.

The guard has already refused web URLs for chat requests; here no other way of vLLM's API gets around it.
"""

from typing import Any

from serving.launch import current_launch


def register_connector() -> None:
    """Registers the connector; `VLLM_MEDIA_CONNECTOR=onecard` chooses it (launch.py)."""
    from vllm.exceptions import VLLMValidationError
    from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

    launch = current_launch()
    allow_urls = launch is not None and launch.allow_image_urls

    def check(url: str) -> None:
        if url[:5].lower() == "data:" or (allow_urls and url.startswith(("http://", "https://"))):
            return
        raise VLLMValidationError("This server takes pictures as data URLs only.", parameter="image_url")

    class OnecardMediaConnector(MediaConnector):  # type: ignore[misc]
        def load_from_url(self, url: str, *args: Any, **kwargs: Any) -> Any:
            check(url)
            return super().load_from_url(url, *args, **kwargs)

        async def load_from_url_async(self, url: str, *args: Any, **kwargs: Any) -> Any:
            check(url)
            return await super().load_from_url_async(url, *args, **kwargs)

    MEDIA_CONNECTOR_REGISTRY.register("onecard")(OnecardMediaConnector)
