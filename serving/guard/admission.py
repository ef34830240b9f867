"""Who is served, who waits and who is refused: a pure policy. Nothing sleeps here, and the time is an argument.

A request is charged with the KV tokens that it will hold and the tokens that the vision encoder must process for it. As much
is in flight as the plan can serve; a bounded queue waits behind that; anything beyond is refused, with the time in which the
queue will have moved at the measured rate of service. Between keys the queue is fair (start-time fair queueing: Goyal, Vin,
Cheng 1996), so whoever floods it waits behind himself; and while other keys are active, no key may have everything.
"""

import bisect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.ipc.status import LONGEST_RETRY_S

# The half-life of the measured rate of service, in busy seconds.
_HALF_LIFE_S = 30.0
# Until something has been measured, a full engine is assumed to be served in this time.
_FIRST_GUESS_S = 10.0
# A key that asked within this time is active: no other may have more than its share of what is in flight.
_ABOUT_S = 60.0


@dataclass(frozen=True)
class Cost:
    """`kv_tokens`: prompt and longest answers together. `encoder_tokens`: those of its pictures, which are part of the prompt.
    `sequences`: the answers that it asks for; the engine runs each as a sequence of its own."""

    kv_tokens: int
    encoder_tokens: int = 0
    prompt_tokens: int = 0
    sequences: int = 1


@dataclass(frozen=True)
class Capacity:
    """The most that may be in flight, and how many requests may wait behind it. While other keys are active, one key may have
    at most `share` of it."""

    kv_tokens: int
    encoder_tokens: int
    sequences: int
    queue: int
    share: float = 0.75


@dataclass(eq=False)
class Ticket:
    """One request's place. `tell` is called once, when it is admitted (True) or pushed out of the queue (False)."""

    key: str
    cost: Cost
    tell: Callable[[bool], None]
    start: float = 0.0
    number: int = 0
    state: str = "waiting"  # waiting → running → done, or waiting → done

    def __lt__(self, other: "Ticket") -> bool:
        return (self.start, self.number) < (other.start, other.number)


@dataclass
class Admission:
    """`enter` returns a ticket, or a refusal as a number of seconds; `leave` returns the ticket's place, whatever its state."""

    capacity: Capacity
    running: int = 0
    kv_tokens: int = 0
    encoder_tokens: int = 0
    sequences: int = 0
    _waiting: list[Ticket] = field(default_factory=list)
    _queued: Counter[str] = field(default_factory=Counter)
    _held: dict[str, Cost] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)
    _finish: dict[str, float] = field(default_factory=dict)
    _virtual_time: float = 0.0
    _numbers: int = 0
    _served: float = 0.0
    _busy_s: float = 0.0
    _since: float = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def full(self, key: str) -> bool:
        """Whether a request of this key would be refused now: known before its body is read."""
        return self.waiting >= self.capacity.queue and self._to_push_out(key) is None

    def enter(self, key: str, cost: Cost, tell: Callable[[bool], None], now: float) -> Ticket | int:
        """A ticket, admitted at once or waiting; or the seconds after which to ask again."""
        ticket = Ticket(key, self._within(cost), tell)
        self._seen[key] = now
        if self._fits(ticket.cost) and self._in_its_share(ticket, now) and not self._in_line(now):
            self._tag(ticket)
            self._start(ticket, now)
            return ticket
        if self.waiting >= self.capacity.queue:
            pushed = self._to_push_out(key)
            if pushed is None:
                return self.retry_after(ticket.cost)
            self._unqueue(pushed)
            pushed.state = "done"
            pushed.tell(False)
        self._tag(ticket)
        bisect.insort(self._waiting, ticket)
        self._queued[key] += 1
        self._admit(now)
        return ticket

    def leave(self, ticket: Ticket, now: float) -> None:
        """The request has been answered, or whoever sent it has left."""
        if ticket.state == "waiting":
            self._unqueue(ticket)
        elif ticket.state == "running":
            self._measure(now)
            self._served += ticket.cost.kv_tokens
            self.running -= 1
            self.kv_tokens -= ticket.cost.kv_tokens
            self.encoder_tokens -= ticket.cost.encoder_tokens
            self.sequences -= ticket.cost.sequences
            self._hold(ticket, -1)
        ticket.state = "done"
        self._admit(now)
        if not self.running and not self._waiting:  # idle: nobody is ahead of anybody any more
            self._finish.clear()

    def turn_away(self) -> None:
        """Turns away everyone who waits: the engine that would serve them is gone."""
        for ticket in tuple(self._waiting):
            self._unqueue(ticket)
            ticket.state = "done"
            ticket.tell(False)

    def retry_after(self, cost: Cost) -> int:
        """Whole seconds until everything that waits, and then this, will have been served."""
        ahead = sum(ticket.cost.kv_tokens for ticket in self._waiting) + cost.kv_tokens
        return max(1, min(LONGEST_RETRY_S, math.ceil(ahead / self.rate())))

    def rate(self) -> float:
        """KV tokens served per busy second, as measured lately."""
        if self._busy_s < 1.0 or not self._served:
            return max(1.0, self.capacity.kv_tokens / _FIRST_GUESS_S)
        return self._served / self._busy_s

    def _within(self, cost: Cost) -> Cost:
        """Capped at the capacity: costs are upper bounds, and a request above it runs alone rather than never."""
        return Cost(
            min(cost.kv_tokens, self.capacity.kv_tokens),
            min(cost.encoder_tokens, self.capacity.encoder_tokens),
            cost.prompt_tokens,
            min(cost.sequences, self.capacity.sequences),
        )

    def _fits(self, cost: Cost) -> bool:
        return (
            self.sequences + cost.sequences <= self.capacity.sequences
            and self.kv_tokens + cost.kv_tokens <= self.capacity.kv_tokens
            and self.encoder_tokens + cost.encoder_tokens <= self.capacity.encoder_tokens
        )

    def _tag(self, ticket: Ticket) -> None:
        """A key's requests follow one another in virtual time, each as long as its cost."""
        ticket.start = max(self._virtual_time, self._finish.get(ticket.key, 0.0))
        self._finish[ticket.key] = ticket.start + ticket.cost.kv_tokens
        self._numbers += 1
        ticket.number = self._numbers

    def _admit(self, now: float) -> None:
        # The first in line waits until it fits, else a large request would starve behind small ones.
        while (ticket := self._in_line(now)) and self._fits(ticket.cost):
            self._waiting.remove(ticket)
            self._forget_queued(ticket.key)
            self._start(ticket, now)

    def _in_line(self, now: float) -> Ticket | None:
        """Who is next: the first whose key has not used up its share."""
        return next((ticket for ticket in self._waiting if self._in_its_share(ticket, now)), None)

    def _in_its_share(self, ticket: Ticket, now: float) -> bool:
        held = self._held.get(ticket.key)
        if held is None or not any(key != ticket.key and now - at < _ABOUT_S for key, at in self._seen.items()):
            return True
        return (
            held.sequences + ticket.cost.sequences <= self.capacity.share * self.capacity.sequences
            and held.kv_tokens + ticket.cost.kv_tokens <= self.capacity.share * self.capacity.kv_tokens
        )

    def _hold(self, ticket: Ticket, sign: int) -> None:
        """Keeps count of what each key has in flight, and forgets a key that has nothing."""
        held = self._held.get(ticket.key, Cost(0, sequences=0))
        kv_tokens = held.kv_tokens + sign * ticket.cost.kv_tokens
        sequences = held.sequences + sign * ticket.cost.sequences
        if sequences:
            self._held[ticket.key] = Cost(kv_tokens, sequences=sequences)
        else:
            del self._held[ticket.key]

    def _start(self, ticket: Ticket, now: float) -> None:
        self._measure(now)
        self._virtual_time = max(self._virtual_time, ticket.start)
        ticket.state = "running"
        self.running += 1
        self.kv_tokens += ticket.cost.kv_tokens
        self.encoder_tokens += ticket.cost.encoder_tokens
        self.sequences += ticket.cost.sequences
        self._hold(ticket, 1)
        ticket.tell(True)

    def _to_push_out(self, key: str) -> Ticket | None:
        """The last in line of the key with the most places in the queue, if this key has clearly fewer."""
        if not self._queued:
            return None
        greediest, most = self._queued.most_common(1)[0]
        if greediest == key or self._queued[key] + 1 >= most:
            return None
        return max(ticket for ticket in self._waiting if ticket.key == greediest)

    def _unqueue(self, ticket: Ticket) -> None:
        self._waiting.remove(ticket)
        self._finish[ticket.key] -= ticket.cost.kv_tokens  # what is not served is not held against its key
        self._forget_queued(ticket.key)

    def _forget_queued(self, key: str) -> None:
        self._queued[key] -= 1
        if not self._queued[key]:
            del self._queued[key]

    def _measure(self, now: float) -> None:
        """Counts the time since the last change, if it was spent serving."""
        if self.running:
            elapsed = max(0.0, now - self._since)
            kept = 0.5 ** (elapsed / _HALF_LIFE_S)
            self._served *= kept
            self._busy_s = self._busy_s * kept + elapsed
        self._since = now
