"""The chain of the six answers: each is asked with what those before it decided."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sim.decide.answer import Answer
from sim.decide.budget import choose_tokens
from sim.decide.data_mix import choose_mix, refuse_phases
from sim.decide.deployment import choose_size
from sim.decide.layouts import choose_layout
from sim.decide.load import Planned
from sim.decide.memory_stages import choose_zero
from sim.decide.ranking import Ranked, Said
from sim.decide.safety import Outlook, choose_safety
from sim.decide.wording import said
from sim.results.result import Result


@dataclass(frozen=True)
class Decided:
    """The plan's outcome: six answers, the whole run, and what figures are drawn from."""

    planned: Planned
    answers: tuple[Answer, ...]
    outlook: Outlook
    result: Result
    ranking: tuple[Ranked, ...]

    @property
    def summary(self) -> str:
        """In a sentence."""
        size, data = self.answers[1].values["parameters"], self.answers[1].values["tokens"]
        layout, every = self.answers[2].values["layout"], self.answers[5].values["checkpoint_interval_s"]
        outlook = self.outlook
        return (
            f"{said(size, 'parameters')} parameters on {said(data, 'tokens')} tokens: {layout}, ZeRO-"
            f"{self.answers[3].values['zero']}, a checkpoint every {said(every, 's')}; {outlook.days:,.1f} days, "
            f"{said(outlook.gpu_hours, 'h')} GPU-hours, {said(outlook.usd, 'usd')} on {self.planned.num_gpus:,} "
            f"{self.planned.gpu.name}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values with stable keys."""
        return {
            "name": self.planned.plan.name,
            "summary": self.summary,
            "outlook": dataclasses.asdict(self.outlook),
            "answers": [answer.to_dict() for answer in self.answers],
        }


def decide(planned: Planned, told: Said = lambda _: None) -> Decided:
    """The six answers in order. `told` hears of every step that was simulated.

    Raises SimError where an answer cannot be given: no layout fits, a phase asks for more tokens than there are.
    """
    sized = choose_size(planned)
    budgeted = choose_tokens(planned, sized)
    refuse_phases(planned, budgeted.at.tokens)
    laid = choose_layout(planned, sized.model, budgeted.at, told)
    fitted = choose_zero(planned, laid, told)
    mixed = choose_mix(planned, sized.model, budgeted.at, fitted, told)
    safety, outlook = choose_safety(planned, fitted, mixed, told)
    answers = (sized.answer, budgeted.answer, laid.answer, fitted.answer, mixed.answer, safety)
    return Decided(planned, answers, outlook, fitted.result, tuple(laid.ranking))
