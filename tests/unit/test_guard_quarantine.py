"""Who is suspected of a crash, who is let off and who is not tried again: the notes of the servers, and what the supervisor
makes of them."""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.guard import suspects
from serving.guard.admission import Admission, Capacity, Cost
from serving.guard.body import Body
from serving.guard.facts import facts
from serving.guard.in_engine import InEngine, left_by
from serving.guard.quarantine import Quarantine, Witness
from serving.guard.suspects import CONVICTED_AT, Suspects
from serving.guard.turn import Turn
from serving.ipc import control
from tests.asgi import CHAT, Recorder, error_of, request, sent

POISON, INNOCENT = b"p" * 32, b"i" * 32


def dies(folder: Path, home: Path | None = None) -> None:
    """What the supervisor does then."""
    Suspects(home or folder).blame(left_by(folder))


def lives(folder: Path, *deaths: tuple[bytes, ...]) -> Suspects:
    """What a server knows after it has died with each of these in its engine."""
    for digests in deaths:
        life = InEngine(folder, places=4)
        for digest in digests:
            life.enter(digest)
        dies(folder)
    return Suspects(folder)


def judged(known: Suspects, digest: bytes) -> str:
    record = known.record(digest)
    return "convicted" if record and record.convicted else "suspected" if record else "free"


def test_what_killed_it_alone_is_convicted_in_the_end(tmp_path: Path) -> None:
    known = lives(tmp_path, (POISON, INNOCENT), *[(POISON,)] * (CONVICTED_AT - 2))
    assert judged(known, POISON) == "suspected"
    lives(tmp_path, (POISON,))
    assert (judged(known, POISON), judged(known, INNOCENT)) == ("convicted", "suspected")


def test_who_was_never_alone_is_suspected_and_no_more(tmp_path: Path) -> None:
    known = lives(tmp_path, *[(POISON, INNOCENT)] * (CONVICTED_AT + 1))
    assert judged(known, INNOCENT) == "suspected"


def test_who_has_come_out_of_the_engine_is_not_suspected(tmp_path: Path) -> None:
    life = InEngine(tmp_path, places=1)
    for _ in range(3):
        life.leave(life.enter(INNOCENT))
    life.enter(POISON)
    life.leave(life.enter(INNOCENT))  # more than there are places: not noted, and no harm done
    assert left_by(tmp_path) == {POISON}


def test_one_death_is_told_once(tmp_path: Path) -> None:
    life = InEngine(tmp_path, places=2)
    place = life.enter(POISON)
    dies(tmp_path)
    life.leave(place)
    life.enter(INNOCENT)  # the server has not yet noticed
    assert left_by(tmp_path) == set()


def test_an_answer_acquits_and_is_remembered(tmp_path: Path) -> None:
    known = lives(tmp_path, (INNOCENT,))
    Suspects(tmp_path).acquit(INNOCENT)
    assert judged(known, INNOCENT) == "free"
    assert judged(Suspects(tmp_path), INNOCENT) == "free"


def test_the_supervisor_that_is_started_anew_suspects_nobody(tmp_path: Path) -> None:
    lives(tmp_path, *[(POISON,)] * CONVICTED_AT)
    Suspects(tmp_path).forget()
    assert judged(Suspects(tmp_path), POISON) == "free"
    Suspects(tmp_path).forget()


def test_what_dies_with_one_card_is_known_to_the_others_at_once(tmp_path: Path) -> None:
    home, cards = tmp_path, [tmp_path / "card-1", tmp_path / "card-2"]
    for card in cards:
        card.mkdir()
    known = Suspects(home)
    assert judged(known, POISON) == "free"
    for crashes in range(CONVICTED_AT):
        assert judged(known, POISON) == ("suspected" if crashes else "free")
        InEngine(cards[crashes % 2], places=4).enter(POISON)
        dies(cards[crashes % 2], home)
    assert judged(known, POISON) == "convicted"


def test_after_an_hour_it_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = lives(tmp_path, *[(POISON,)] * CONVICTED_AT)
    assert judged(known, POISON) == "convicted"
    monkeypatch.setattr(suspects, "_FORGOTTEN_AFTER_S", 0.0)
    assert judged(known, POISON) == "free"


def test_no_more_than_a_few_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_MOST", 2)
    known = lives(tmp_path, (b"1" * 32,), (b"2" * 32,), (b"3" * 32,), ())
    assert [judged(known, digit * 32) for digit in (b"1", b"2", b"3")] == ["free", "suspected", "suspected"]


def test_a_disk_without_room_costs_the_suspicion_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in-engine").symlink_to("/dev/full")
    life = InEngine(tmp_path, places=4)
    life.leave(life.enter(POISON))
    (tmp_path / "in-engine").unlink()
    nowhere = InEngine(tmp_path / "gone", places=4)
    nowhere.leave(nowhere.enter(POISON))
    Suspects(tmp_path / "gone").blame({POISON})
    assert judged(Suspects(tmp_path / "gone"), POISON) == "free"


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


def guarded(engine: Engine, folder: Path) -> ASGIApp:
    known = Suspects(folder)
    return Quarantine(Witness(engine, InEngine(folder, places=4), known, engine.is_dead), known)


@contextlib.contextmanager
def supervisor_hears(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What the server has told it; complete at the end."""
    heard: list[dict[str, str]] = []
    read_end, write_end = os.pipe()
    monkeypatch.setenv(control.ENVIRONMENT_KEY, str(write_end))
    with open(read_end, encoding="utf-8") as told:
        try:
            yield heard
        finally:
            os.close(write_end)
            heard += map(json.loads, told)


def test_the_engines_death_is_the_fault_of_what_was_in_it_whatever_was_answered(tmp_path: Path) -> None:
    for _ in range(CONVICTED_AT):
        engine = Engine()
        engine.dies = True
        app = guarded(engine, tmp_path)
        assert request(app, "POST", CHAT, json={"n": 1}).status_code == 200  # a stream that ends with an error
        assert request(app, "POST", CHAT, json={"n": 2}).status_code == 200  # came when it was dead
        dies(tmp_path)
    app = guarded(Engine(), tmp_path)
    reply = request(app, "POST", CHAT, json={"n": 1})
    assert (reply.status_code, error_of(reply)["code"]) == (422, "quarantined")
    assert request(app, "POST", CHAT, json={"n": 2}).status_code == 200


@pytest.mark.parametrize(("status", "acquitted"), [(200, True), (400, False), (500, False)])
def test_only_an_answer_acquits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, acquitted: bool) -> None:
    digest = blake3(b"{}").digest()
    with supervisor_hears(monkeypatch) as heard:
        app = guarded(Engine(JSONResponse({}, status)), tmp_path)
        request(app, "POST", CHAT, content=b"{}")  # nobody suspects it yet, and nothing is told
        Suspects(tmp_path).blame({digest})
        request(app, "POST", CHAT, content=b"{}")
    assert heard == [{"event": "acquitted", "digest": digest.hex()}] * acquitted


def test_the_last_server_does_not_try_what_may_have_killed_another(tmp_path: Path) -> None:
    below = Recorder()
    waits_s: float | None = 30.0
    app = Quarantine(below, Suspects(tmp_path), lambda _age_s: waits_s)
    assert request(app, "POST", CHAT, content=b"{}").status_code == 200
    Suspects(tmp_path).blame({blake3(b"{}").digest()})
    reply = request(app, "POST", CHAT, content=b"{}")
    assert (reply.status_code, error_of(reply)["code"]) == (503, "not_ready")
    assert int(reply.headers["retry-after"]) >= waits_s
    assert request(app, "POST", CHAT, content=b"[]").status_code == 200
    waits_s = None
    assert request(app, "POST", CHAT, content=b"{}").status_code == 200


def test_what_it_has_answered_before_the_last_server_goes_on_answering(tmp_path: Path) -> None:
    known = Suspects(tmp_path)
    engine = Engine()
    app = Quarantine(Witness(engine, InEngine(tmp_path, 4), known, engine.is_dead), known, lambda _age_s: 30.0)
    assert request(app, "POST", CHAT, content=b"{}").status_code == 200
    Suspects(tmp_path).blame({blake3(body).digest() for body in (b"{}", b"[]")})
    assert request(app, "POST", CHAT, content=b"{}").status_code == 200
    assert request(app, "POST", CHAT, content=b"[]").status_code == 503


def test_of_what_it_has_answered_a_server_remembers_a_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "_MOST_ANSWERED", 2)
    known = Suspects(tmp_path)
    for digest in (b"1", b"2", b"1", b"3"):
        known.answered(digest)
    assert [known.was_answered(digest) for digest in (b"1", b"2", b"3")] == [True, False, True]


def test_a_large_body_is_told_from_another(tmp_path: Path) -> None:
    dying = Engine()
    dying.dies = True
    large = b'"' + b"x" * 2**21
    for _ in range(CONVICTED_AT):
        dying.dead = False
        request(guarded(dying, tmp_path), "POST", CHAT, content=large + b'1"')
        dies(tmp_path)
    app = guarded(Engine(), tmp_path)
    assert request(app, "POST", CHAT, content=large + b'1"').status_code == 422
    assert request(app, "POST", CHAT, content=large + b'2"').status_code == 200


def test_a_suspect_runs_with_nothing_beside_it(tmp_path: Path) -> None:
    dying = Engine()
    dying.dies = True
    request(guarded(dying, tmp_path), "POST", CHAT, json={"n": 1})
    dies(tmp_path)
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

    app = Body(Quarantine(costs, Suspects(tmp_path)), 2**20)

    async def ask() -> None:
        bodies = [{"n": 2}, {"n": 1}, {"n": 3}]
        replies = await asyncio.gather(*(sent(app, "POST", CHAT, json=body) for body in bodies))
        assert [reply.status_code for reply in replies] == [200] * 3

    asyncio.run(ask())
    assert running == [1] * 6


def test_other_routes_pass(tmp_path: Path) -> None:
    below = Recorder()
    request(Quarantine(below, Suspects(tmp_path)), "GET", "/v1/models")
    assert len(below.scopes) == 1
