"""Which of the configured models is loaded next, and when. Pure: nothing here waits, and the time is an argument."""

from collections.abc import Iterable

from serving.ipc.launch import Launch, Offered


class Choice:
    """The models that requests may name, each with its launch; a launch's first name is its key. `current` is the one that is
    loaded, or was last."""

    def __init__(self, launches: tuple[Launch, ...]) -> None:
        offers = [launch.offered for launch in launches]
        self.launches = {
            launch.model_names[0]: launch.model_copy(update={"others": _without(offers, launch.offered)})
            for launch in launches
        }
        self.current = launches[0].model_names[0]
        self._keys = {name: key for key, launch in self.launches.items() for name in launch.model_names}

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._keys)

    @property
    def max_body_bytes(self) -> int:
        """The largest body that any of the models takes."""
        return 2**20 * max(launch.plan.limits.max_body_mib for launch in self.launches.values())

    def key(self, name: str | None) -> str | None:
        """The key of the model of that name; the current one's if no name is given. None for an unknown name."""
        return self.current if name is None else self._keys.get(name)


def _without(offers: list[Offered], own: Offered) -> tuple[Offered, ...]:
    return tuple(offer for offer in offers if offer != own)


def next_model(waiting: Iterable[str], current: str, ready_s: float | None, min_stay_s: float) -> str | None:
    """The key of the model to load now; None while there is nothing to do. `waiting` are the models of the held requests,
    longest wait first; `ready_s` is how long the current model has been ready, None while none is loaded.

    A model stays for at least `min_stay_s` and answers everything asked of it meanwhile: otherwise two users of two models
    would have them swapped for every single request.
    """
    if ready_s is None:
        return next(iter(waiting), None)
    if ready_s < min_stay_s:
        return None
    return next((key for key in waiting if key != current), None)
