"""The latency of an algorithm alone is that of its pattern."""

from __future__ import annotations

import numpy as np
import pytest

from sim.cost.collectives import ALGORITHMS
from sim.spec import find, source
from sim.spec.topology import FABRICS, Fabric

GROUPS = {
    "inside nodes": lambda gpus: gpus.reshape(-1, 4),
    "one on each node": lambda gpus: gpus.reshape(-1, 8).T,
    "all, in order": lambda gpus: gpus.reshape(1, -1),
    "all, backwards": lambda gpus: gpus[::-1].reshape(1, -1),
    "uneven": lambda gpus: np.concatenate([gpus[:2], gpus[8:9]]).reshape(1, -1),
    "pairs of two kinds": lambda gpus: np.stack([gpus[[0, 1]], gpus[[0, 9]]]),
}


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    """Three nodes of 8 GPUs on two leaves of each rail, whose switches reduce."""
    fields = source.plain(source.read(find.find("topologies", "dgx-h100")))
    family = fields.pop("fabric")
    nccl = fields["nccl"] | {"sharp": True}
    return FABRICS[family].model_validate(fields | {"nodes": 3, "nodes_per_unit": 2, "nccl": nccl}).build()


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_latency_alone_is_that_of_the_pattern(name: str, groups: str, fabric: Fabric):
    members = GROUPS[groups](np.arange(fabric.num_gpus))
    algorithm = ALGORITHMS[name]
    for op in sorted(algorithm.ops) if algorithm.applies(members, fabric) else ():
        latency_s = algorithm.latency_s(op, members, fabric)
        assert latency_s.tolist() == algorithm.pattern(op, members, fabric).latency_s.tolist()
        assert (latency_s > 0).all()
