"""How many interruptions another cluster will see, from the rates of clusters that were observed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Cluster:
    """Interruptions that were counted in so many node-days, nodes of eight GPUs."""

    name: str
    count: float
    node_days: float
    source: str

    @property
    def rate(self) -> float:
        """Per 1,000 node-days."""
        return 1000 * self.count / self.node_days


LLAMA3 = Cluster("Llama 3 405B", 419, 2048 * 54, "arXiv 2407.21783 table 5")

OTHERS = (
    Cluster("RSC-1", 6.5, 1000, "arXiv 2410.21680"),
    Cluster("RSC-2", 2.34, 1000, "arXiv 2410.21680"),
    Cluster("OPT-175B", 90, 124 * 56, "https://github.com/facebookresearch/metaseq, projects/OPT/chronicles"),
    Cluster(
        "BLOOM-176B", 1, 48 * 7, "https://github.com/bigscience-workshop/bigscience, train/tr11-176B-ml/chronicles.md"
    ),
    Cluster("504 B200", 10, 63 * 55, "arXiv 2605.09370, abstract"),
)
"""Clusters whose rate was published, Llama 3's not among them."""


@dataclass(frozen=True)
class Interval:
    """Median and central interval of a predicted count."""

    low: float
    median: float
    high: float


def predicted_count(rates: Sequence[float], exposure: float, level: float = 0.95) -> Interval:
    """Interruptions in `exposure` (1,000 node-days) of a cluster about which nothing else is known.

    The logarithms of the clusters' `rates` (per 1,000 node-days) are normal with unknown mean and variance, so that the
    next one follows Student's t with n - 1 degrees of freedom and scale s sqrt(1 + 1/n). Given its rate, the count is
    Poisson: its variance is added in logarithms (1 / median).

    >>> found = predicted_count([2.0, 4.0, 8.0], 100.0)
    >>> round(found.median), found.low < 400 < found.high
    (400, True)
    """
    logs = np.log(np.array(rates, dtype=np.float64))
    median = exposure * math.exp(float(logs.mean()))
    scale = math.sqrt(float(logs.var(ddof=1)) * (1 + 1 / len(logs)) + 1 / median)
    width = float(stats.t.ppf((1 + level) / 2, len(logs) - 1)) * scale
    return Interval(median * math.exp(-width), median, median * math.exp(width))
