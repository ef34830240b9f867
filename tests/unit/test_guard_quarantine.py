"""Who is suspected of a crash, who is let off and who is not tried again; a life of the server is one set of `Suspects`."""

import asyncio
from pathlib import Path

import pytest
from blake3 import blake3
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard import suspects
from serving.guard.admission import Admission, Capacity, Cost
from serving.guard.body import Body
from serving.guard.facts import facts
from serving.guard.quarantine import Quarantine, Witness
from serving.guard.suspects import CONVICTED_AT, Suspects
from serving.guard.turn import Turn
from tests.asgi import CHAT, Recorder, error_of, request, sent

POISON, INNOCENT = b"p" * 32, b"i" * 32


def lives(folder: Path, *deaths: tuple[bytes, ...]) -> Suspects:
    """What the server knows after it has died with each of these in its engine."""
    for restarts, digests in enumerate(deaths):
        life = Suspects(folder, restarts, places=4)
        for digest in digests:
            life.enter(digest)
    return Suspects(folder, len(deaths), places=4)


def test_what_killed_it_alone_is_convicted_in_the_end(tmp_path: Path) -> None:
    known = lives(tmp_path, (POISON, INNOCENT), *[(POISON,)] * (CONVICTED_AT - 2))
    assert (known.suspected(POISON), known.convicted(POISON)) == (True, False)
    known = lives(tmp_path, (POISON, INNOCENT), *[(POISON,)] * (CONVICTED_AT - 1))
    assert (known.convicted(POISON), known.convicted(INNOCENT)) == (True, False)


def test_who_was_never_alone_is_suspected_and_no_more(tmp_path: Path) -> None:
    known = lives(tmp_path, *[(POISON, INNOCENT)] * (CONVICTED_AT + 1))
    assert known.suspected(INNOCENT)
    assert not known.convicted(INNOCENT)


def test_who_has_come_out_of_the_engine_is_not_suspected(tmp_path: Path) -> None:
    life = Suspects(tmp_path, 0, places=1)
    for _ in range(3):
        life.leave(life.enter(INNOCENT))
    life.enter(POISON)
    life.leave(life.enter(INNOCENT))  # more than there are places: not noted, and no harm done
    known = Suspects(tmp_path, 1, places=1)
    assert (known.suspected(INNOCENT), known.suspected(POISON)) == (False, True)


def test_an_answer_acquits_and_is_remembered(tmp_path: Path) -> None:
    lives(tmp_path, (INNOCENT,)).acquit(INNOCENT)
    assert not Suspects(tmp_path, 2, places=4).suspected(INNOCENT)


def test_a_server_that_is_started_anew_suspects_nobody(tmp_path: Path) -> None:
    lives(tmp_path, *[(POISON,)] * CONVICTED_AT)
    assert not Suspects(tmp_path, 0, places=4).suspected(POISON)
    assert not Suspects(tmp_path, 1, places=4).suspected(POISON)


def test_after_an_hour_it_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = lives(tmp_path, *[(POISON,)] * CONVICTED_AT)
    assert known.convicted(POISON)
    monkeypatch.setattr(suspects, "_FORGOTTEN_AFTER_S", 0.0)
    assert not known.suspected(POISON)


def test_no_more_than_a_few_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_MOST", 2)
    known = lives(tmp_path, (b"1" * 32,), (b"2" * 32,), (b"3" * 32,), ())
    assert [known.suspected(digit * 32) for digit in (b"1", b"2", b"3")] == [False, True, True]


def test_a_disk_without_room_costs_the_suspicion_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in-engine").symlink_to("/dev/full")
    life = Suspects(tmp_path, 0, places=4)
    life.leave(life.enter(POISON))
    (tmp_path / "in-engine").unlink()
    nowhere = Suspects(tmp_path / "gone", 1, places=4)
    nowhere.leave(nowhere.enter(POISON))
    assert not nowhere.suspected(POISON)


# --- the layers ---


class Engine:
    """Answers, and can be dead."""

    def __init__(self, response: Response | None = None) -> None:
        self.dead = False
        self.dies = False
        self._response = response or JSONResponse({})

    def is_dead(self, _scope: Scope) -> bool:
        return self.dead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.dead = self.dies
        await self._response(scope, receive, send)


def guarded(engine: Engine, known: Suspects) -> ASGIApp:
    return Quarantine(Witness(engine, known, engine.is_dead), known)


def test_the_engines_death_is_the_fault_of_what_was_in_it_whatever_was_answered(tmp_path: Path) -> None:
    for restarts in range(CONVICTED_AT):
        engine = Engine()
        engine.dies = True
        app = guarded(engine, Suspects(tmp_path, restarts, places=4))
        assert request(app, "POST", CHAT, json={"n": 1}).status_code == 200  # a stream that ends with an error
        assert request(app, "POST", CHAT, json={"n": 2}).status_code == 200  # came when it was dead
    app = guarded(Engine(), Suspects(tmp_path, CONVICTED_AT, places=4))
    reply = request(app, "POST", CHAT, json={"n": 1})
    assert (reply.status_code, error_of(reply)["code"]) == (422, "quarantined")
    assert request(app, "POST", CHAT, json={"n": 2}).status_code == 200


@pytest.mark.parametrize(("status", "suspected"), [(200, False), (400, True), (500, True)])
def test_only_an_answer_acquits(tmp_path: Path, status: int, suspected: bool) -> None:
    dying = Engine()
    dying.dies = True
    request(guarded(dying, Suspects(tmp_path, 0, places=4)), "POST", CHAT, content=b"{}")
    known = Suspects(tmp_path, 1, places=4)
    request(guarded(Engine(JSONResponse({}, status)), known), "POST", CHAT, content=b"{}")
    assert known.suspected(blake3(b"{}").digest()) is suspected


def test_a_large_body_is_told_from_another(tmp_path: Path) -> None:
    dying = Engine()
    dying.dies = True
    large = b'"' + b"x" * 2**21
    for restarts in range(CONVICTED_AT):
        dying.dead = False
        request(guarded(dying, Suspects(tmp_path, restarts, places=4)), "POST", CHAT, content=large + b'1"')
    app = guarded(Engine(), Suspects(tmp_path, CONVICTED_AT, places=4))
    assert request(app, "POST", CHAT, content=large + b'1"').status_code == 422
    assert request(app, "POST", CHAT, content=large + b'2"').status_code == 200


def test_a_suspect_runs_with_nothing_beside_it(tmp_path: Path) -> None:
    dying = Engine()
    dying.dies = True
    request(guarded(dying, Suspects(tmp_path, 0, places=4)), "POST", CHAT, json={"n": 1})
    admission = Admission(Capacity(kv_tokens=100, encoder_tokens=0, sequences=4, queue=8))
    running: list[int] = []

    async def engine(scope: Scope, receive: Receive, send: Send) -> None:
        running.append(admission.running)
        await asyncio.sleep(0.05)
        running.append(admission.running)
        await Recorder()(scope, receive, send)

    async def costs(scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope).cost = Cost(10)
        await Turn(engine, admission, 60)(scope, receive, send)

    app = Body(Quarantine(costs, Suspects(tmp_path, 1, places=4)), 2**20)

    async def ask() -> None:
        bodies = [{"n": 2}, {"n": 1}, {"n": 3}]
        replies = await asyncio.gather(*(sent(app, "POST", CHAT, json=body) for body in bodies))
        assert [reply.status_code for reply in replies] == [200] * 3

    asyncio.run(ask())
    assert running == [1] * 6


def test_other_routes_pass(tmp_path: Path) -> None:
    below = Recorder()
    request(Quarantine(below, Suspects(tmp_path, 0, places=1)), "GET", "/v1/models")
    assert len(below.scopes) == 1
