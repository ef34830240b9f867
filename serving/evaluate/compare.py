"""Two sets of answers to the same questions compared: accuracy, agreement, drift, and whether the loss is within the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.errors import UsageError
from serving.evaluate.asking import Answer
from serving.evaluate.statistics import bootstrap_interval, kl_divergence, mcnemar, score_interval


@dataclass(frozen=True)
class Comparison:
    """`loss` and its bounds are shares: 0.01 is one point. `score` is the interval that the gate looks at, since it holds
    for few questions too. `kl` is the mean over tokens before which both had said the same, in nats; None without them."""

    questions: int
    right: int
    right_reference: int
    lost: int
    won: int
    agreement: float
    mcnemar_p: float
    bootstrap: tuple[float, float]
    score: tuple[float, float]
    kl: float | None
    kl_tokens: int

    @property
    def loss(self) -> float:
        return (self.lost - self.won) / self.questions

    @property
    def upper_points(self) -> float:
        """The upper 95% bound of the loss, in points: the larger of the two intervals'."""
        return 100 * max(self.score[1], self.bootstrap[1])

    def within(self, gate_points: float) -> bool:
        return self.upper_points < gate_points

    def as_json(self) -> dict[str, Any]:
        return {
            "questions": self.questions,
            "right": self.right,
            "right_reference": self.right_reference,
            "lost": self.lost,
            "won": self.won,
            "loss_points": round(100 * self.loss, 3),
            "bootstrap_95_points": [round(100 * bound, 3) for bound in self.bootstrap],
            "score_95_points": [round(100 * bound, 3) for bound in self.score],
            "mcnemar_p": round(self.mcnemar_p, 6),
            "agreement": round(self.agreement, 5),
            "kl_nats": None if self.kl is None else round(self.kl, 6),
            "kl_tokens": self.kl_tokens,
        }

    def as_text(self) -> str:
        kl = "not told by the servers" if self.kl is None else f"{self.kl:.5f} nats a token ({self.kl_tokens:,} tokens)"
        low, high = (100 * bound for bound in self.bootstrap)
        return "\n".join(
            [
                f"right          {self.right:,} of {self.questions:,} ({self.right / self.questions:.2%}), "
                f"reference {self.right_reference:,} ({self.right_reference / self.questions:.2%})",
                f"loss           {100 * self.loss:+.2f} points; 95% interval {low:+.2f} to {high:+.2f} (paired bootstrap), "
                f"at most {self.upper_points:+.2f}",
                f"discordant     {self.lost} lost, {self.won} won; McNemar (exact) p = {self.mcnemar_p:.3f}",
                f"same answer    {self.agreement:.2%}, letter by letter",
                f"drift          KL {kl}",
            ]
        )


def compare(candidate: Mapping[str, Answer], reference: Mapping[str, Answer]) -> Comparison:
    """Raises UsageError where they have no question in common."""
    keys = sorted(candidate.keys() & reference.keys())
    if not keys:
        raise UsageError("The two have answered no question in common.")
    pairs = [(candidate[key], reference[key]) for key in keys]
    lost = sum(old.right and not new.right for new, old in pairs)
    won = sum(new.right and not old.right for new, old in pairs)
    drifts = [drift for new, old in pairs for drift in _drifts(new, old)]
    return Comparison(
        questions=len(pairs),
        right=sum(new.right for new, _ in pairs),
        right_reference=sum(old.right for _, old in pairs),
        lost=lost,
        won=won,
        agreement=sum(new.text == old.text for new, old in pairs) / len(pairs),
        mcnemar_p=mcnemar(lost, won),
        bootstrap=bootstrap_interval(lost, won, len(pairs)),
        score=score_interval(lost, won, len(pairs)),
        kl=sum(drifts) / len(drifts) if drifts else None,
        kl_tokens=len(drifts),
    )


def _drifts(new: Answer, old: Answer) -> list[float]:
    """One for each position up to and with the first where they say something else: from there on the texts differ."""
    found = []
    for (said, likely), (said_before, likely_before) in zip(new.tokens, old.tokens, strict=False):
        found.append(kl_divergence(likely_before, likely))
        if said != said_before:
            break
    return found
