"""One experiment: model, gpu, topology, layout, training, network and seed, checked against each other."""

from __future__ import annotations

from sim.spec.gpu import Gpu
from sim.spec.layout import Layout
from sim.spec.model import Model
from sim.spec.network import Network
from sim.spec.quantity import Spec
from sim.spec.topology import FabricSpec
from sim.spec.training import Training


class Scenario(Spec):
    """One experiment, resolved: nothing is left to look up, `layout.dp` is set, and every part fits the others."""

    name: str
    model: Model
    gpu: Gpu
    topology: FabricSpec
    layout: Layout
    training: Training
    network: Network
    seed: int = 0
