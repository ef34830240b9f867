"""What the servers of several cards show each other: which take requests, how many each has, and how many are on the way
between them. It is a page of memory shared with the supervisor, without locks: each number has one writer, and a write of eight
aligned bytes is atomic.
"""

import mmap
import os
from enum import IntEnum

ENVIRONMENT_KEY = "ONECARD_BOARD_FD"


class _Number(IntEnum):
    """Eight bytes each, for every card. Both ends count a request that is handed over; the difference is on the way."""

    OPEN = 0  # the supervisor's
    SENT = 1  # the supervisor's: handed to the server
    TAKEN = 2  # the supervisor's: given back by it
    HERE = 3  # the server's
    ARRIVED = 4  # the server's: of those sent
    GIVEN = 5  # the server's: given back
    IDLE_SINCE = 6  # the server's


class Board:
    """The supervisor says which cards are open; each server says how many requests it has, and since when it has had none."""

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size)).cast("d")
        self._cards = range(len(self._numbers) // len(_Number))
        self.descriptor = descriptor

    @classmethod
    def for_cards(cls, cards: int) -> "Board":
        descriptor = os.memfd_create("board")
        os.ftruncate(descriptor, 8 * len(_Number) * cards)
        return cls(descriptor)

    @classmethod
    def inherited(cls) -> "Board | None":
        """The board that the supervisor passed to this process; None where this server is the only one."""
        descriptor = os.environ.get(ENVIRONMENT_KEY)
        return cls(int(descriptor)) if descriptor else None

    # --- the supervisor's side ---

    def open(self, card: int) -> None:
        self._set(card, _Number.OPEN, 1)

    def close(self, card: int) -> None:
        """The card takes no more requests; its next server starts from zero."""
        for number in _Number:
            self._set(card, number, 0)

    def count(self, card: int, *, sent: int, taken: int) -> None:
        """Requests handed to that server, and given back by it, so far."""
        self._set(card, _Number.SENT, sent)
        self._set(card, _Number.TAKEN, taken)

    # --- a server's side ---

    def post(self, card: int, here: int, idle_since: float, *, arrived: int, given: int) -> None:
        """`idle_since` is by the monotonic clock, which all processes of a machine share."""
        self._set(card, _Number.HERE, here)
        self._set(card, _Number.ARRIVED, arrived)
        self._set(card, _Number.GIVEN, given)
        self._set(card, _Number.IDLE_SINCE, idle_since)

    # --- what there is to see ---

    def load(self, card: int) -> int:
        """The requests that the card has, and those on the way to it."""
        return self._get(card, _Number.HERE) + max(0, self._get(card, _Number.SENT) - self._get(card, _Number.ARRIVED))

    @property
    def undecided(self) -> int:
        """Requests on the way to the supervisor, which will choose a card for each."""
        return sum(max(0, self._get(card, _Number.GIVEN) - self._get(card, _Number.TAKEN)) for card in self._cards)

    def open_cards(self) -> list[int]:
        """The cards that take requests, the least loaded first."""
        return sorted((card for card in self._cards if self._get(card, _Number.OPEN)), key=self.load)

    def idle_since(self) -> float | None:
        """Since when no card has had a request; None while one has."""
        cards = self.open_cards()
        if not cards or any(self.load(card) for card in cards):
            return None
        return max(self._numbers[self._place(card, _Number.IDLE_SINCE)] for card in cards)

    def _get(self, card: int, number: _Number) -> int:
        return int(self._numbers[self._place(card, number)])

    def _set(self, card: int, number: _Number, value: float) -> None:
        self._numbers[self._place(card, number)] = value

    @staticmethod
    def _place(card: int, number: _Number) -> int:
        return len(_Number) * card + number
