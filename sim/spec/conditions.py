"""What is not as the data sheet says: slow GPUs, bad cables, links that others use, jitter of kernels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, WithJsonSchema

from sim.spec.background import loaded
from sim.spec.degraded import degraded
from sim.spec.quantity import Spec
from sim.spec.topology import Fabric, Floats

if TYPE_CHECKING:
    from sim.spec.scenario import Scenario

MAX_SPEED = 2.0
MAX_SIGMA = 1.0

_GPU_NUMBER = r"0|[1-9][0-9]{0,8}"
_PER_RANK, _PER_OPERATION = 0, 1


def _gpu_number(key: Any) -> Any:
    """The number of a GPU; files of JSON, dumps and dotted paths write it as text."""
    if isinstance(key, str) and re.fullmatch(_GPU_NUMBER, key):
        return int(key)
    if isinstance(key, str) or (isinstance(key, int) and key < 0):
        raise ValueError(f"got {key!r}, allowed the number of a GPU, from 0")
    return key


Speed = Annotated[float, Field(gt=0, le=MAX_SPEED)]
Share = Annotated[float, Field(ge=0, le=1)]
Load = Annotated[float, Field(ge=0, lt=1)]
Sigma = Annotated[float, Field(ge=0, le=MAX_SIGMA)]
GpuNumber = Annotated[int, BeforeValidator(_gpu_number)]


class Jitter(Spec):
    """Spread of kernel times that nobody can predict, such as clocks and memory refresh.

    Each is the sigma of a log-normal factor with mean 1 on the time of a kernel; 0 draws nothing. `per_rank` is drawn
    once for each GPU and stays for the step, `per_operation` anew for each compute operation.
    """

    per_rank: Sigma = 0.0
    per_operation: Sigma = 0.0


class Conditions(Spec):
    """State of the GPUs and cables of a cluster, where it is not that of its data sheets.

    gpus: speed of the kernels of a GPU, 1 as on the data sheet.  links: share of its rate that a cable keeps in both
    directions, 0 for a broken one; a cable is called by the names of its ends.  background: share of the rate of the
    links of a tier, or of a cable, that others take all the time.
    """

    gpus: Annotated[
        dict[GpuNumber, Speed],
        WithJsonSchema(
            {
                "type": "object",
                "description": "speed of the kernels of a GPU, by its number",
                "propertyNames": {"pattern": f"^({_GPU_NUMBER})$"},
                "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SPEED},
            }
        ),
    ] = Field(default_factory=dict)
    links: dict[str, Share] = Field(default_factory=dict)
    background: dict[str, Load] = Field(default_factory=dict)
    jitter: Jitter = Jitter()


def built_fabric(scenario: Scenario) -> Fabric:
    """The scenario's topology as it is: built, with its degraded and broken cables, and as others leave it.

    Raises SimError for a cable or tier that does not exist.
    """
    conditions = scenario.conditions
    return loaded(degraded(scenario.topology.build(), conditions.links), conditions.background)


def speeds(conditions: Conditions, num_gpus: int, seed: int) -> Floats:
    """Speed of each GPU's kernels, 1 as on the data sheet: (num_gpus,). The GPU of rank r is GPU r.

    A given speed over the factor of `jitter.per_rank` on time.

    >>> speeds(Conditions(gpus={2: 0.5}), 4, seed=0).tolist()
    [1.0, 1.0, 0.5, 1.0]
    """
    speed = np.ones(num_gpus)
    for gpu, given in conditions.gpus.items():
        assert gpu < num_gpus, f"GPU {gpu} of {num_gpus}"
        speed[gpu] = given
    return speed / _factors(conditions.jitter.per_rank, num_gpus, seed, _PER_RANK)


def operation_factors(conditions: Conditions, seed: int, rank: int, size: int) -> Floats:
    """Factors of `jitter.per_operation` on the times of the first `size` compute operations of a rank: (size,).

    A rank has a generator of its own: it draws the same whatever other ranks are played.

    >>> operation_factors(Conditions(), seed=0, rank=0, size=2).tolist()
    [1.0, 1.0]
    """
    return _factors(conditions.jitter.per_operation, size, seed, _PER_OPERATION, rank)


def _factors(sigma: float, size: int, seed: int, *purpose: int) -> Floats:
    """Log-normal factors exp(sigma z - sigma^2 / 2), z standard normal: mean 1, sigma of the logarithm `sigma`."""
    if sigma == 0:
        return np.ones(size)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
    return np.exp(sigma * generator.standard_normal(size) - sigma**2 / 2)
