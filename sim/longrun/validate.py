"""Published goodput beside ours: rows whose inputs are public."""

from __future__ import annotations

from dataclasses import dataclass

from sim.longrun.renewal import ettr, exact_interval_s, meta_ettr, without_checkpoints, young_interval_s

MINUTE_S = 60.0
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@dataclass(frozen=True)
class Row:
    """A published share of productive time, and ours. form: of ours.

    hidden: what was not published of its inputs, so that it cannot be reproduced; empty where all is known.
    """

    name: str
    published: float
    ours: float
    form: str
    source: str
    hidden: str = ""

    @property
    def error(self) -> float:
        """Ours less the published share."""
        return self.ours - self.published


def mtbf_s(rate_per_1000_node_days: float, gpus: int) -> float:
    """Between interruptions of a job on nodes of eight GPUs.

    >>> round(mtbf_s(6.5, 16384) / 3600, 2)
    1.8
    """
    return 1000 * DAY_S / (rate_per_1000_node_days * gpus / 8)


RSC_1 = 6.5
RSC_2 = 2.34
RSC = "arXiv 2410.21680"
FT_HSDP = "arXiv 2602.00277"
FT_HSDP_MTBF_S = 12.8 * MINUTE_S
"""One mean time for both rows of FT-HSDP: between the 12.2 and 13.4 minutes that each of them alone asks for."""


def rows() -> list[Row]:
    """Rows with an MTBF, an interval and a restart; runs whose checkpoints nobody published are left out."""
    found = []
    for name, gpus, rate, interval_min, restart_min, published in (
        ("RSC-1, 16,000 GPUs, every 60 min", 16_000, RSC_1, 60, 5, 0.70),
        ("RSC-1, 16,000 GPUs, every 5 min", 16_000, RSC_1, 5, 5, 0.93),
        ("RSC-1, 8,000 GPUs, every 30 min", 8_000, RSC_1, 30, 6, 0.90),
        ("RSC-2 rate, 100,000 GPUs, every 2 min", 100_000, RSC_2, 2, 2, 0.90),
        ("RSC-2 rate, 100,000 GPUs, every 21 min", 100_000, RSC_2, 21, 5, 0.50),
    ):
        share = ettr(interval_min * MINUTE_S, mtbf_s(rate, gpus), 0.0, restart_min * MINUTE_S)
        hidden = "cost of a checkpoint and queue" if rate == RSC_2 else ""
        found.append(Row(name, published, share, "exact", RSC, hidden))
    large = ettr(7 * MINUTE_S, mtbf_s(RSC_1, 131_072), 0.0, 5 * MINUTE_S)
    found.append(Row("RSC-1 rate, 131,072 GPUs, every 7 min", 0.50, large, "exact", RSC))
    for name, rate, block_s in (("RSC-1 rate", RSC_1, 10.0), ("r_f = 1", 1.0, 5 * MINUTE_S)):
        mean_s = mtbf_s(rate, 12_000)
        share = meta_ettr(young_interval_s(mean_s, block_s), mean_s, block_s, 5 * MINUTE_S)
        found.append(Row(f"{name}, 12,000 GPUs, Young's interval", 0.90, share, "linear", RSC))
    for name, stall_min, published in (("synchronous", 10, 0.44), ("FT-HSDP", 3, 0.80)):
        share = without_checkpoints(FT_HSDP_MTBF_S, stall_min * MINUTE_S)
        found.append(Row(f"100,000 GPUs, {name}, stall of {stall_min} min", published, share, "stall", FT_HSDP))
    return found


def llama3_ettr(block_s: float, restart_s: float) -> float:
    """The best that Llama 3's 419 interruptions in 54 days leave: at the exact optimum of the interval."""
    mean_s = 54 * DAY_S / 419
    return ettr(exact_interval_s(mean_s, block_s), mean_s, block_s, restart_s)
