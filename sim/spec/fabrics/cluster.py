"""Nodes of GPUs around an NVLink crossbar, their NICs, and two tiers of switches: what the families have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, final

import numpy as np
from pydantic import Field

from sim.spec.fabrics.calibration import Nccl
from sim.spec.quantity import BytesPerSecond, Count, Fraction, Seconds, Spec
from sim.spec.topology import Floats, Ints, Links, Routes

MAX_GPUS = 2**20
MAX_UPLINKS = 2**22
TIERS = ("nvlink", "pcie", "nic", "spine")


class Port(Spec):
    """One direction of a port: its rate on the datasheet, the share that transfers achieve, and the time of one hop."""

    bytes_per_s: BytesPerSecond = Field(alias="bandwidth")
    efficiency: Fraction
    latency_s: Seconds = Field(alias="latency")


class SpineTier(Spec):
    """Switches that join the leaves. Every leaf reaches every spine, and traffic spreads evenly over them.

    oversubscription: rate of a leaf's ports down over the rate of its ports up.
    """

    count: Count
    oversubscription: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    efficiency: Fraction
    latency_s: Seconds = Field(alias="latency")


@dataclass(frozen=True)
class ScaleOut:
    """The network between nodes: G GPUs share M NICs, which hang on L leaves.

    nic_of_gpu: (G,).  leaf_of_nic: (M,).  nics_per_leaf: ports down of a leaf that has all its nodes; its ports up are
    sized by them even where the last leaf has fewer.
    """

    nic_of_gpu: Ints
    leaf_of_nic: Ints
    nics_per_leaf: int
    pcie: Port
    nic: Port
    spine: SpineTier

    @property
    def uplink_bytes_per_s(self) -> float:
        """Datasheet rate from one leaf to one spine: the ports down over oversubscription, divided among spines."""
        down: float = self.nics_per_leaf * self.nic.bytes_per_s
        return down / self.spine.oversubscription / self.spine.count


def check_size(num_gpus: int, num_leaves: int = 0, num_spines: int = 0) -> None:
    """Raise ValueError where the tables would not fit in memory."""
    if num_gpus > MAX_GPUS:
        raise ValueError(f"too many GPUs (got {num_gpus}, allowed up to {MAX_GPUS})")
    if num_leaves * num_spines > MAX_UPLINKS:
        raise ValueError(
            f"too many links between {num_leaves} leaves and {num_spines} spines"
            f" (got {num_leaves * num_spines}, allowed up to {MAX_UPLINKS})"
        )


@final
@dataclass(frozen=True, eq=False)
class Cluster:
    """A Fabric whose links stand in blocks, so that the number of a link follows from its ends.

    Blocks, in order: GPU to NVSwitch and back (G each), GPU to NIC and back (G each), NIC to leaf and back (M each),
    leaf to spine and back (L x S each, leaf by leaf).
    """

    gpus_per_node: int
    links: Links
    nic_of_gpu: Ints
    leaf_of_nic: Ints
    num_nodes: int
    num_spines: int
    hop_latency_s: tuple[float, ...]

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return self.num_nodes * self.gpus_per_node

    @property
    def num_leaves(self) -> int:
        """Leaf switches; the last one has a NIC."""
        return int(self.leaf_of_nic[-1]) + 1 if len(self.leaf_of_nic) else 0

    def node_of(self, gpus: Ints) -> Ints:
        """Node of each GPU."""
        return gpus // self.gpus_per_node

    def node_names(self) -> list[str]:
        """`gpu0` .., `nvswitch0` .., `nic0` .., `leaf0` .., `spine0` .. in the order of the node numbers."""
        counts = {
            "gpu": self.num_gpus,
            "nvswitch": self.num_nodes,
            "nic": len(self.leaf_of_nic),
            "leaf": self.num_leaves,
            "spine": self.num_spines,
        }
        return [f"{kind}{number}" for kind, count in counts.items() for number in range(count)]

    def routes(self, source: Ints, target: Ints) -> Routes:
        """NVLink inside a node; across nodes GPU, NIC, leaf, (spine, leaf,) NIC, GPU; nothing for a GPU with itself."""
        is_local = self.node_of(source) == self.node_of(target)
        local = np.flatnonzero(is_local & (source != target))
        remote = np.flatnonzero(~is_local)
        rows = [(local, source[local]), (local, target[local] + self.num_gpus)]
        latency_s = np.zeros(len(source))
        latency_s[local] = 2 * self.hop_latency_s[0]
        num_spread = 0
        if len(remote):
            rows += self._to_leaves(remote, source[remote], target[remote])
            latency_s[remote] = 2 * (self.hop_latency_s[1] + self.hop_latency_s[2])
            leaf_in = self.leaf_of_nic[self.nic_of_gpu[source]]
            leaf_out = self.leaf_of_nic[self.nic_of_gpu[target]]
            crossing = remote[leaf_in[remote] != leaf_out[remote]]
            latency_s[crossing] += 2 * self.hop_latency_s[3]
            rows += self._over_spines(crossing, leaf_in[crossing], leaf_out[crossing])
            num_spread = 2 * len(crossing) * self.num_spines
        pair = np.concatenate([pair for pair, _ in rows])
        share = np.ones(len(pair))
        if num_spread:
            share[-num_spread:] = 1 / self.num_spines
        return Routes(
            pair=pair,
            link=np.concatenate([link for _, link in rows]),
            share=share,
            latency_s=latency_s,
        )

    def _to_leaves(self, pair: Ints, source: Ints, target: Ints) -> list[tuple[Ints, Ints]]:
        """(pair, link) of GPU to NIC, NIC to leaf, leaf to NIC, NIC to GPU."""
        pcie = 2 * self.num_gpus
        nic = 4 * self.num_gpus
        return [
            (pair, pcie + source),
            (pair, nic + self.nic_of_gpu[source]),
            (pair, nic + len(self.leaf_of_nic) + self.nic_of_gpu[target]),
            (pair, pcie + self.num_gpus + target),
        ]

    def _over_spines(self, pair: Ints, leaf_in: Ints, leaf_out: Ints) -> list[tuple[Ints, Ints]]:
        """(pair, link) of leaf to every spine, every spine to leaf."""
        up = 4 * self.num_gpus + 2 * len(self.leaf_of_nic)
        down = up + self.num_leaves * self.num_spines
        spines = np.arange(self.num_spines)
        pairs = np.repeat(pair, self.num_spines)
        return [
            (pairs, (up + leaf_in[:, None] * self.num_spines + spines).ravel()),
            (pairs, (down + leaf_out[:, None] * self.num_spines + spines).ravel()),
        ]


@dataclass(frozen=True)
class Block:
    """Links of one tier in one direction (the other direction swaps the ends)."""

    lower: Ints
    upper: Ints
    bytes_per_s: float
    efficiency: float
    latency_s: float


def cluster(
    num_nodes: int, gpus_per_node: int, nvlink: Port, scale_out: ScaleOut | None = None, *, nccl: Nccl | None = None
) -> Cluster:
    """Tables of `num_nodes` nodes; one node needs no network between nodes."""
    assert scale_out is not None or num_nodes == 1, "several nodes without a network"
    num_gpus = num_nodes * gpus_per_node
    gpus = np.arange(num_gpus)
    blocks = [
        Block(gpus, num_gpus + gpus // gpus_per_node, nvlink.bytes_per_s, nvlink.efficiency, nvlink.latency_s),
    ]
    nic_of_gpu = leaf_of_nic = np.zeros(0, dtype=np.int64)
    num_spines = 0
    if scale_out is not None:
        nic_of_gpu, leaf_of_nic, num_spines = scale_out.nic_of_gpu, scale_out.leaf_of_nic, scale_out.spine.count
        blocks += _scale_out_blocks(scale_out, gpus, num_gpus + num_nodes)
    return Cluster(
        gpus_per_node=gpus_per_node,
        links=replace(links_of(blocks, TIERS[: len(blocks)]), nccl=nccl),
        nic_of_gpu=nic_of_gpu,
        leaf_of_nic=leaf_of_nic,
        num_nodes=num_nodes,
        num_spines=num_spines,
        hop_latency_s=tuple(block.latency_s for block in blocks),
    )


def _scale_out_blocks(network: ScaleOut, gpus: Ints, first_nic: int) -> list[Block]:
    pcie, nic, spine = network.pcie, network.nic, network.spine
    num_nics = len(network.leaf_of_nic)
    first_leaf = first_nic + num_nics
    num_leaves = int(network.leaf_of_nic[-1]) + 1
    leaves = np.repeat(np.arange(num_leaves), spine.count)
    spines = np.tile(np.arange(spine.count), num_leaves)
    return [
        Block(gpus, first_nic + network.nic_of_gpu, pcie.bytes_per_s, pcie.efficiency, pcie.latency_s),
        Block(
            first_nic + np.arange(num_nics),
            first_leaf + network.leaf_of_nic,
            nic.bytes_per_s,
            nic.efficiency,
            nic.latency_s,
        ),
        Block(
            first_leaf + leaves,
            first_leaf + num_leaves + spines,
            network.uplink_bytes_per_s,
            spine.efficiency,
            spine.latency_s,
        ),
    ]


def links_of(blocks: list[Block], tiers: tuple[str, ...]) -> Links:
    """Columns of the links: of each block those from lower to upper ends, then those back; a block is a tier."""
    sizes = [2 * len(block.lower) for block in blocks]

    def column(values: list[float]) -> Floats:
        return np.repeat(np.array(values), sizes)

    return Links(
        source=np.concatenate([end for block in blocks for end in (block.lower, block.upper)]),
        target=np.concatenate([end for block in blocks for end in (block.upper, block.lower)]),
        bytes_per_s=column([block.bytes_per_s * block.efficiency for block in blocks]),
        wire_bytes_per_s=column([block.bytes_per_s for block in blocks]),
        latency_s=column([block.latency_s for block in blocks]),
        tier=np.repeat(np.arange(len(blocks)), sizes),
        tiers=tiers,
    )
