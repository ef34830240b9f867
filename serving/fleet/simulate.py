"""Many replicas with continuous batching, as a discrete-event simulation. Pure: the same seed gives the same figures.

A replica's engine works in steps, as vLLM's scheduler does. In each, every running answer gets one token, and what waits is
taken in, first come first served, while it fits: at most `at_once` requests, and of their prompts at most `budget` tokens, the
rest of a long one in the next step. A step lasts as long as its prompts and its tokens take together. A request enters the
replica after `delay_s` (connection, reading the picture), goes to the less loaded of two replicas drawn at random (Ray Serve's
power of two choices), and is refused when that one's queue is full.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from serving.fleet.cards import Service

# A client that was refused asks again after this: at once, it would never be done.
_REFUSED_PAUSE_S = 0.2


@dataclass
class Request:
    """Seconds since the beginning; 0 tokens left is answered. `began` is when it entered the engine's batch."""

    at: float
    tokens: int
    replica: int = -1
    prompt_left: float = 1.0
    given: int = 0
    began: float = 0.0
    first: float = 0.0
    end: float = 0.0
    refused: bool = False


@dataclass
class _Replica:
    service: Service
    waiting: deque[Request] = field(default_factory=deque)
    filling: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    coming: int = 0
    busy_s: float = 0.0
    stepping: bool = False

    @property
    def load(self) -> float:
        """Of what it can run at once, what it has and what is on its way to it."""
        return (len(self.waiting) + len(self.filling) + len(self.running) + self.coming) / self.service.at_once


@dataclass(frozen=True)
class Outcome:
    """Every request that came after the warm-up, and the share of the time in which each replica's engine worked."""

    requests: tuple[Request, ...]
    seconds: float
    busy: tuple[float, ...]

    @property
    def answered(self) -> list[Request]:
        return [request for request in self.requests if not request.refused]

    @property
    def requests_per_s(self) -> float:
        """Answers that ended within the time that is counted, a second."""
        return len(self.answered) / self.seconds if self.seconds else 0.0

    @property
    def refused_share(self) -> float:
        return 1 - len(self.answered) / len(self.requests) if self.requests else 0.0

    def waits_s(self) -> list[float]:
        """From the arrival at the replica to the batch."""
        return [request.began - request.at for request in self.answered]

    def firsts_s(self) -> list[float]:
        return [request.first - request.at for request in self.answered]

    def totals_s(self) -> list[float]:
        return [request.end - request.at for request in self.answered]


def open_arrivals(per_s: float, seconds: float, length: Callable[[], int], rng: random.Random) -> Iterator[Request]:
    """Independent people: a Poisson process."""
    at = rng.expovariate(per_s)
    while at < seconds:
        yield Request(at, length())
        at += rng.expovariate(per_s)


def lengths(mean: float, spread: float, rng: random.Random) -> Callable[[], int]:
    """Tokens of answers: gamma with that mean and, as a share of it, that standard deviation; fixed where it is 0."""
    if not spread:
        return lambda: max(1, round(mean))
    shape = 1 / spread**2
    return lambda: max(1, round(rng.gammavariate(shape, mean / shape)))


def simulate_open(
    services: Sequence[Service], arrivals: Iterator[Request], *, warm_s: float = 0.0, seed: int = 0
) -> Outcome:
    """What becomes of those arrivals, which come whether others have been answered or not."""
    return _Simulation(services, seed).run(arrivals, warm_s)


def simulate_closed(
    services: Sequence[Service], clients: int, each: int, length: Callable[[], int], *, seed: int = 0
) -> Outcome:
    """So many clients, each of which asks again when it has been answered, `each` times."""
    left = [each - 1] * clients

    def more(client: int, _now: float) -> bool:
        left[client] -= 1
        return left[client] >= 0

    return _closed(services, clients, more, length, seed)


def simulate_until(
    services: Sequence[Service], clients: int, seconds: float, length: Callable[[], int], *, seed: int = 0
) -> Outcome:
    """So many clients, each of which asks again when it has been answered, for so long; what runs then is answered."""
    return _closed(services, clients, lambda _, now: now < seconds, length, seed)


def _closed(
    services: Sequence[Service],
    clients: int,
    more: Callable[[int, float], bool],
    length: Callable[[], int],
    seed: int,
) -> Outcome:
    """`more` says whether that client asks again, now that it has been answered or refused."""
    owners: dict[int, int] = {}

    def again(done: Request, now: float) -> Request | None:
        client = owners.pop(id(done))
        if not more(client, now):
            return None
        following = Request(now + _REFUSED_PAUSE_S * done.refused, length())
        owners[id(following)] = client
        return following

    first = [Request(0.0, length()) for _ in range(clients)]
    owners.update((id(request), client) for client, request in enumerate(first))
    return _Simulation(services, seed).run(iter(first), 0.0, again)


class _Simulation:
    """Events in the order of their time: a request comes, enters its replica, or a replica's step ends."""

    def __init__(self, services: Sequence[Service], seed: int) -> None:
        self._replicas = [_Replica(service) for service in services]
        self._rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = 0
        self._all: list[Request] = []
        self._again: Callable[[Request, float], Request | None] = lambda _, __: None
        self._now = 0.0

    def run(
        self,
        arrivals: Iterator[Request],
        warm_s: float,
        again: Callable[[Request, float], Request | None] | None = None,
    ) -> Outcome:
        if again:
            self._again = again
        for request in arrivals:
            self._come(request)
        while self._events:
            self._now, _, happen = heapq.heappop(self._events)
            happen(self._now)
        counted = tuple(request for request in self._all if request.at >= warm_s)
        end = max((request.end for request in counted), default=0.0)
        busy = tuple(replica.busy_s / end if end else 0.0 for replica in self._replicas)
        return Outcome(counted, max(0.0, end - warm_s), busy)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (when, self._numbers, happen))

    def _come(self, request: Request) -> None:
        self._all.append(request)
        self._at(request.at, lambda now: self._choose(request, now))

    def _choose(self, request: Request, now: float) -> None:
        few = min(2, len(self._replicas))
        request.replica = min(
            self._rng.sample(range(len(self._replicas)), few), key=lambda each: self._replicas[each].load
        )
        replica = self._replicas[request.replica]
        if len(replica.waiting) + replica.coming >= replica.service.queue + replica.service.at_once:
            request.refused, request.end = True, now
            self._follow(request, now)
            return
        replica.coming += 1
        self._at(now + replica.service.delay_s, lambda then: self._enter(replica, request, then))

    def _enter(self, replica: _Replica, request: Request, now: float) -> None:
        replica.coming -= 1
        replica.waiting.append(request)
        if not replica.stepping:
            self._step(replica, now)

    def _step(self, replica: _Replica, now: float) -> None:
        """One step of the engine: decides what is in it, and what it has brought when it ends."""
        service = replica.service
        left = budget = max(1, service.budget - len(replica.running)) / service.prompt_tokens
        finished_prompts: list[Request] = []
        for request in replica.filling:
            left -= self._fill(request, left, finished_prompts)
        while replica.waiting and left > 0 and len(replica.running) + len(replica.filling) < service.at_once:
            request = replica.waiting.popleft()
            request.began = now
            replica.filling.append(request)
            left -= self._fill(request, left, finished_prompts)
        seconds = (budget - left) * service.prompt_s + service.step(len(replica.running) + len(finished_prompts))
        if seconds <= 0:
            replica.stepping = False
            return
        steps = 1 if left < budget else self._alike(replica, seconds, now)
        replica.stepping = True
        replica.busy_s += seconds * steps
        self._at(now + seconds * steps, lambda then: self._stepped(replica, finished_prompts, steps, then))

    def _alike(self, replica: _Replica, seconds: float, now: float) -> int:
        """How many steps without a prompt are as this one: until the first answer ends, or something else happens."""
        steps = min(request.tokens - request.given for request in replica.running)
        if self._events:
            steps = min(steps, math.ceil((self._events[0][0] - now) / seconds))
        return max(1, steps)

    @staticmethod
    def _fill(request: Request, left: float, finished: list[Request]) -> float:
        """Takes of a prompt what fits, and says how much; prompts are counted as shares of a whole one."""
        part = min(request.prompt_left, left)
        request.prompt_left -= part
        if request.prompt_left <= 1e-12:
            request.prompt_left = 0.0
            finished.append(request)
        return part

    def _stepped(self, replica: _Replica, finished_prompts: list[Request], steps: int, now: float) -> None:
        for request in finished_prompts:
            replica.filling.remove(request)
            request.first = now
            replica.running.append(request)
        still: list[Request] = []
        for request in replica.running:
            request.given += steps
            if request.given < request.tokens:
                still.append(request)
            else:
                request.end = now
                self._follow(request, now)
        replica.running = still
        self._step(replica, now)

    def _follow(self, request: Request, now: float) -> None:
        if following := self._again(request, now):
            self._come(following)
