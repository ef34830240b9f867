"""Who waits for which model: the places in the supervisor's waiting room, longest first."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from serving.ipc.handover import Channel


@dataclass(eq=False)
class Place:
    """One request's wait for its model. `told` gets the channel to the server, or in words why there will be none."""

    model: str
    told: "asyncio.Future[Channel | str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Hold:
    """The places, longest wait first; at most `most` of them. `wanted` is set while there is any."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.places: list[Place] = []
        self.wanted = asyncio.Event()

    @property
    def waiting(self) -> list[str]:
        """The models that are waited for, longest wait first."""
        return [place.model for place in self.places]

    @contextlib.contextmanager
    def place(self, model: str) -> Iterator[Place]:
        place = Place(model)
        self.places.append(place)
        self.wanted.set()
        try:
            yield place
        finally:
            self.places.remove(place)
            if not self.places:
                self.wanted.clear()

    def release(self, model: str, channel: Channel) -> None:
        """The model is ready: requests for it go on."""
        self._tell(model, channel)

    def refuse(self, model: str | None, reason: str) -> None:
        """The model will not become ready; None means every model."""
        self._tell(model, reason)

    def _tell(self, model: str | None, word: Channel | str) -> None:
        for place in self.places:
            if place.model == (model or place.model) and not place.told.done():
                place.told.set_result(word)
