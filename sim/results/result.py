"""What a step means: the answers, each defined once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.program.memory import StageMemory
from sim.results.links import TierUse
from sim.results.spending import Spending
from sim.spec.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd


SCALARS = (
    "step_time_s",
    "lone_step_s",
    "tokens_per_s",
    "tokens_per_s_per_gpu",
    "model_flop_per_s_per_gpu",
    "mfu",
    "mfu_causal",
    "hfu",
    "bubble_fraction",
    "bubble_fraction_steady",
    "bubble_fraction_closed_form",
    "overlap_fraction",
    "peak_bytes",
    "fits",
    "gpu_w",
    "energy_j",
    "carbon_kg",
    "usd",
    "usd_per_token",
    "tokens_per_j",
)
"""Answers of a `Result` that are one value each: what tables of several results have in common."""


@dataclass(frozen=True)
class Result:
    """Answers about one step. Times in s, rates per s, shares in 0..1.

    step_time_s: from step to step in a steady run (`sim.results.steady`).  lone_step_s: of a step that nothing comes
    before or after, from the first operation of any rank to the last.
    mfu: model FLOPs (forward and backward, full attention, no recomputation) over the time at the dense peak.
    mfu_causal: the same with half of the attention's scores.  hfu: `mfu` with what is recomputed.
    bubble_fraction: idle time of the compute stream within the pipeline's window, for lack of upstream or downstream
    work, over the step.  bubble_fraction_steady: the same within each rank's own span.
    bubble_fraction_closed_form: the schedule's published share of the step; None, with `bubble_note`, where none holds.
    overlap_fraction: time in which communication and compute both run over time in which communication runs.
    exposed_s_by_kind: idle time of the compute stream while communication of a kind ran that the next kernel waited
    for.  breakdown_s: cause -> seconds, mean over ranks; it adds up to the step.
    breakdown_s_by_rank: the same for each simulated rank, by its number.  spending: energy, carbon and money.
    """

    scenario: Scenario
    fidelity: str
    version: str
    step_time_s: float
    lone_step_s: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    model_flop_per_s_per_gpu: float
    mfu: float
    mfu_causal: float
    hfu: float
    bubble_fraction: float
    bubble_fraction_steady: float
    bubble_fraction_closed_form: float | None
    bubble_note: str
    overlap_fraction: float | None
    overlap_fraction_by_kind: dict[str, float | None]
    exposed_s_by_kind: dict[str, float]
    breakdown_s: dict[str, float]
    breakdown_s_by_rank: dict[int, dict[str, float]]
    pp_rank_of: dict[int, int]
    num_ranks_of: dict[int, int]
    memory: tuple[StageMemory, ...]
    link_use: dict[str, TierUse]
    spending: Spending
    num_gpus: int
    simulated_ranks: int
    operations: int
    simulated_operations: int
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The scenario's name, with its variant."""
        return self.scenario.title

    @property
    def peak_bytes(self) -> float:
        """Memory of the fullest GPU."""
        return max(stage.peak_bytes for stage in self.memory)

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(stage.fits for stage in self.memory)

    @property
    def gpu_w(self) -> float:
        """Mean power of a GPU."""
        return self.spending.gpu_w

    @property
    def energy_j(self) -> float:
        """Of a step, with the rest of the nodes and of the data centre."""
        return self.spending.energy_j

    @property
    def carbon_kg(self) -> float:
        """CO2 equivalents of a step."""
        return self.spending.carbon_kg

    @property
    def usd(self) -> float | None:
        """US dollars of a step; None without a price."""
        return self.spending.usd

    @property
    def usd_per_token(self) -> float | None:
        """US dollars of a trained token; None without a price."""
        return None if self.usd is None else self.usd / (self.tokens_per_s * self.step_time_s)

    @property
    def tokens_per_j(self) -> float:
        """Tokens that a joule of the data centre trains."""
        return self.tokens_per_s * self.step_time_s / self.energy_j

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values with stable keys: what `result.json` holds."""
        from sim.spec.load import dump  # noqa: PLC0415

        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["scenario"] = dump(self.scenario)
        values["name"] = self.name
        values["memory"] = {
            "peak_bytes": self.peak_bytes,
            "capacity_bytes": self.scenario.gpu.memory_bytes,
            "fits": self.fits,
            "by_stage": [dataclasses.asdict(stage) for stage in self.memory],
        }
        values["link_use"] = {tier: dataclasses.asdict(use) for tier, use in self.link_use.items()}
        rates = {name: getattr(self, name) for name in ("usd_per_token", "tokens_per_j")}
        values["spending"] = dataclasses.asdict(self.spending) | rates
        for name in ("breakdown_s_by_rank", "pp_rank_of", "num_ranks_of"):
            values[name] = {str(rank): value for rank, value in values[name].items()}
        return values

    def to_frame(self) -> pd.DataFrame:
        """The breakdown as a table: one row for each simulated rank and cause, seconds and share of the step."""
        import pandas as pd  # noqa: PLC0415 - two seconds that only those pay who ask for a table

        rows = [
            {
                "rank": rank,
                "pp_rank": self.pp_rank_of[rank],
                "num_ranks": self.num_ranks_of[rank],
                "cause": cause,
                "seconds": seconds,
                "share": seconds / self.step_time_s,
            }
            for rank, causes in self.breakdown_s_by_rank.items()
            for cause, seconds in causes.items()
        ]
        return pd.DataFrame(rows)
