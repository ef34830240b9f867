"""The choice: for each card the most exact precision that does the work, and as few replicas as meet the wanted latency."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from serving.errors import ConfigError
from serving.fleet.advice import Advice, Expected, Idle, Option, Placement
from serving.fleet.cards import Measured, Service, derived, from_measured
from serving.fleet.demand import Cards, Demand, Fleet, read_measured
from serving.fleet.simulate import Outcome, lengths, open_arrivals, simulate_open
from serving.hub import resolve_model
from serving.machine.hardware import Hardware
from serving.models.architecture import read_shape
from serving.planning.plan import Plan
from serving.planning.planner import Subject
from serving.planning.profile import load_models, load_profile, shape_dir

_NOBODY = Hardware(gpus=(), driver_version=None, nvml_problem="not asked", ram_mib=65_536, cpu_count=0, wsl=False)
# A simulation counts this many requests, after a tenth more that fill the queues.
_REQUESTS = 1500
_WARM_SHARE = 0.1
# Beyond this many cards of a kind nothing is looked for.
_MOST_CARDS = 64
# No replica is planned fuller than this: the simulation's hour is as good as its averages, and a real one is not.
_FULLEST = 0.9


@dataclass(frozen=True, eq=False)
class Seat:
    """A kind of card with a model on it. Not equal to another of the same: a file may name a card once for each machine."""

    cards: Cards
    plan: Plan
    service: Service


@dataclass(frozen=True)
class _Choice:
    """What one choice of models comes to: the kinds of card, those of them that are fast enough, and the replicas taken."""

    seats: list[Seat]
    able: list[Seat]
    taken: list[Seat]
    meets: bool

    @property
    def most_per_s(self) -> float:
        return sum(seat.service.most_per_s(1) for seat in self.taken)


def advise(fleet: Fleet) -> Advice:
    """The first liked model, its most exact precision first, with which the cards meet what is wanted; else the nearest
    to it, with what would do. Raises ConfigError for what cannot be planned."""
    tried: list[_Choice] = []
    for wish in fleet.models:
        for models in _by_precision(wish):
            if not (seats := _seats(fleet, models)):
                continue
            tried.append(_choose(fleet, seats))
            if tried[-1].meets:
                return _advice(fleet, tried[-1])
    if not tried:
        raise ConfigError(
            f"None of {', '.join(fleet.models)} fits one of these cards and takes requests of "
            f"{fleet.demand.pictures_per_request} picture(s) and {fleet.demand.answer_tokens} tokens of answer. `onecard plan "
            "--matrix` shows what fits, `onecard plan --json` its `limits`; a smaller model or precision under `models:` may, "
            "or smaller requests under `demand:`."
        )
    return _advice(fleet, max(tried, key=lambda choice: (bool(choice.able), choice.most_per_s)))


def _by_precision(wish: str) -> list[list[str]]:
    """A model alone; of a family all, then all but the most exact one, and so on: a card takes the first that fits it."""
    known = load_models()
    if wish in known:
        return [[wish]]
    family = [name for name, model in known.items() if model.family == wish and shape_dir(name)]
    family.sort(key=lambda name: -_subject("rtx5090", name).weights().total)
    return [family[first:] for first in range(len(family))]


def _seats(fleet: Fleet, models: Sequence[str]) -> list[Seat]:
    """For each kind of card the first of the models that fits, the card that answers the most first."""
    found = []
    for cards in fleet.cards:
        for name in models:
            subject = _subject(cards.profile, name)
            plan = subject.plan()
            if not plan.fits or not plan.predicted:
                continue
            service = _service(fleet, cards, subject, plan)
            if _takes(plan, service, fleet.demand):
                found.append(Seat(cards, plan, service))
                break
    return sorted(found, key=lambda seat: -seat.service.most_per_s(fleet.demand.answer_tokens))


def _takes(plan: Plan, service: Service, demand: Demand) -> bool:
    """Whether the server does not refuse such a request for its pictures or its length."""
    tokens = service.prompt_tokens + demand.answer_tokens
    return demand.pictures_per_request <= plan.limits.max_images_per_request and tokens <= plan.capacity.max_model_len


def _service(fleet: Fleet, cards: Cards, subject: Subject, plan: Plan) -> Service:
    demand = fleet.demand
    if cards.measured is not None:
        measured: Measured = read_measured(cards.measured)
        return from_measured(plan, measured, demand.answer_tokens, f"measured: {cards.measured}")
    shape = read_shape(subject.checkpoint.architecture, subject.checkpoint.config)
    if shape is None or subject.profile.gpu is None:
        raise ConfigError(f"No times can be derived for {plan.model} on `{cards.profile}`: measure it (`measured:`).")
    return derived(
        plan,
        shape,
        subject.profile.gpu.bandwidth_gb_s,
        pictures=demand.pictures_per_request,
        picture=demand.picture,
        question=demand.question_tokens,
        answer=demand.answer_tokens,
    )


def _subject(profile_name: str, model_name: str) -> Subject:
    name, profile = load_profile(profile_name)
    resolved = resolve_model(model_name)
    return Subject(name, profile, resolved.name, resolved.model, resolved.checkpoint(), _NOBODY)


def _choose(fleet: Fleet, seats: list[Seat]) -> _Choice:
    """Replicas one after another, on the fastest cards first, until what is wanted is met; all of them where it never is."""
    able = [seat for seat in seats if _idle(fleet, seat).meets]
    taken = [seat for seat in able or seats for _ in range(seat.cards.count)]
    for many in range(1, len(taken) + 1) if able else ():
        if _does(fleet, taken[:many]):
            return _Choice(seats, able, taken[:many], meets=True)
    return _Choice(seats, able, taken, meets=False)


def _advice(fleet: Fleet, choice: _Choice) -> Advice:
    taken = choice.taken
    at_peak, failed = expected(fleet, taken), expected(fleet, _without_a_machine(fleet, taken))
    return Advice(
        meets=choice.meets,
        reachable=bool(choice.able),
        meets_with_one_machine_failed=_meets(fleet, failed),
        placements=tuple(
            Placement(
                profile=seat.plan.profile,
                model=seat.plan.model,
                precision=seat.plan.precision,
                replicas=taken.count(seat),
                spare=seat.cards.count - taken.count(seat),
                at_once=seat.service.at_once,
                most_requests_per_s=round(seat.service.most_per_s(fleet.demand.answer_tokens), 3),
                idle=_idle(fleet, seat),
                source=seat.service.source,
                given_up=seat.plan.given_up,
            )
            for seat in choice.seats
        ),
        asked_per_s=round(peak_per_s(fleet), 4),
        at_average=expected(fleet, taken, peak=False),
        at_peak=at_peak,
        one_machine_failed=failed,
        lost_at_once=round(_lost(fleet, taken, at_peak), 1),
        would_do=() if choice.meets else tuple(_would_do(fleet, choice)),
        assumptions=_assumptions(fleet),
    )


def peak_per_s(fleet: Fleet, *, peak: bool = True) -> float:
    """Requests a second."""
    demand = fleet.demand
    return demand.pictures_per_hour / demand.pictures_per_request / 3600 * (demand.peak_factor if peak else 1)


def expected(fleet: Fleet, chosen: Sequence[Seat], *, peak: bool = True) -> Expected:
    """What is to be expected of those replicas; nothing is answered where there is none."""
    per_s = peak_per_s(fleet, peak=peak)
    if not chosen:
        return Expected.nothing(per_s)
    return Expected.of(_simulated(fleet, chosen, per_s), per_s, fleet.wanted.percent)


def _simulated(fleet: Fleet, chosen: Sequence[Seat], per_s: float) -> Outcome:
    rng = random.Random(fleet.seed)
    seconds = _REQUESTS * (1 + _WARM_SHARE) / per_s
    length = lengths(fleet.demand.answer_tokens, fleet.demand.answer_spread, rng)
    arrivals = open_arrivals(per_s, seconds, length, rng)
    return simulate_open([seat.service for seat in chosen], arrivals, warm_s=_WARM_SHARE * seconds, seed=fleet.seed)


def _does(fleet: Fleet, chosen: Sequence[Seat]) -> bool:
    """Whether those replicas meet what is wanted, as it is wanted."""
    most = sum(seat.service.most_per_s(fleet.demand.answer_tokens) for seat in chosen)
    if peak_per_s(fleet) > _FULLEST * most or not _meets(fleet, expected(fleet, chosen)):
        return False
    return not fleet.survive_one_machine or _meets(fleet, expected(fleet, _without_a_machine(fleet, chosen)))


def _meets(fleet: Fleet, what: Expected) -> bool:
    wanted = fleet.wanted
    return (
        what.refused_share == 0
        and what.requests_per_s > 0
        and (wanted.first_token_s is None or what.first_token_s.wanted <= wanted.first_token_s)
        and (wanted.answer_s is None or what.answer_s.wanted <= wanted.answer_s)
    )


@lru_cache(maxsize=64)
def _longest_drawn(fleet: Fleet) -> int:
    """Tokens of the answer that `percent` do not exceed."""
    length = lengths(fleet.demand.answer_tokens, fleet.demand.answer_spread, random.Random(fleet.seed))
    drawn = sorted(length() for _ in range(1000))
    return drawn[int(len(drawn) * fleet.wanted.percent / 100)]


def _idle(fleet: Fleet, seat: Seat) -> Idle:
    """One request alone: what no number of cards makes shorter. Of a long answer, the one that `percent` do not exceed."""
    first, _ = seat.service.idle_s(1)
    _, whole = seat.service.idle_s(_longest_drawn(fleet))
    wanted = fleet.wanted
    meets = (wanted.first_token_s is None or first <= wanted.first_token_s) and (
        wanted.answer_s is None or whole <= wanted.answer_s
    )
    return Idle(first_token_s=round(first, 3), answer_s=round(whole, 3), meets=meets)


def _without_a_machine(fleet: Fleet, chosen: Sequence[Seat]) -> list[Seat]:
    """One machine less: that which takes the most with it."""

    def weight(seat: Seat) -> float:
        return min(seat.cards.per_machine, chosen.count(seat)) * seat.service.most_per_s(fleet.demand.answer_tokens)

    lost = max(chosen, key=weight)
    left = list(chosen)
    for _ in range(min(lost.cards.per_machine, chosen.count(lost))):
        left.remove(lost)
    return left


def _lost(fleet: Fleet, chosen: Sequence[Seat], at_peak: Expected) -> float:
    """Requests on that machine when it fails at the peak. Little's law: what comes a second, times how long it stays."""
    tokens = fleet.demand.answer_tokens
    kept = sum(seat.service.most_per_s(tokens) for seat in _without_a_machine(fleet, chosen))
    share = 1 - kept / sum(seat.service.most_per_s(tokens) for seat in chosen)
    return at_peak.requests_per_s * at_peak.answer_s.mean * share


def _would_do(fleet: Fleet, choice: _Choice) -> Iterator[Option]:
    """What would meet it: more cards of a kind that is here, and where no card is fast enough, what each could promise."""
    for seat in choice.able:
        others = [other for other in choice.taken if other is not seat]
        for many in range(seat.cards.count + 1, _MOST_CARDS + 1):
            if _does(fleet, [*[seat] * many, *others]):
                yield Option(what=f"{many} cards of {seat.plan.profile} instead of {seat.cards.count}")
                break
    if choice.able:
        return
    for seat in choice.seats:
        idle = _idle(fleet, seat)
        words = f"{seat.plan.model} on {seat.plan.profile} takes {idle.first_token_s:.2f} s to the first token and "
        words += f"{idle.answer_s:.2f} s for an answer when nobody else asks: want no less than that"
        if longest := _longest_answer(fleet, seat.service):
            words += f", or answers of {longest} tokens at most"
        yield Option(what=words)


def _longest_answer(fleet: Fleet, service: Service) -> int:
    """Tokens of an answer that fits the wanted seconds on an idle card; 0 where not even one does, or none are wanted."""
    if fleet.wanted.answer_s is None:
        return 0
    first, _ = service.idle_s(1)
    return max(0, int((fleet.wanted.answer_s - first) / service.step(1)))


def _assumptions(fleet: Fleet) -> tuple[str, ...]:
    demand = fleet.demand
    width, height = demand.picture
    return (
        f"Requests come independently of one another (Poisson), {demand.peak_factor:g} times the average at the peak; "
        f"{_REQUESTS:,} of them are simulated, seed {fleet.seed}.",
        f"Each has {demand.pictures_per_request} picture(s) of {width}×{height}, no two alike, {demand.question_tokens} tokens "
        f"of text, and an answer of {demand.answer_tokens} ± {demand.answer_tokens * demand.answer_spread:.0f} tokens, which "
        "max_tokens names.",
        "A request goes to the less loaded of two replicas drawn at random; an engine works in steps, each as long as its "
        "prompts and its tokens together; a full queue refuses.",
        f"No replica is planned for more than {_FULLEST:.0%} of what it can answer with a full batch.",
        "A machine that fails takes its running requests with it: they are told so as 503 with Retry-After, and are not asked "
        "again here. What comes afterwards goes to the others at once.",
    )
