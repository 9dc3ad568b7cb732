"""Which topology that ships a measured collective ran on, by the words of its system and its network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from sim.calibrate.devices import device
from sim.calibrate.topology_file import TopologyFile, fabric_spec, read_topology
from sim.errors import SimError
from sim.spec.topology import Fabric, FabricSpec, Ints

NVLINK = "nvlink"

TECHNOLOGIES = {
    "efa": r"\befa",
    "slingshot": r"slingshot|\bcxi\b",
    "gpudirect-tcpx": r"tcpx|fastrak",
    "roce": r"roce|bluefield|spectrum|ethernet",
    "infiniband": r"\bib\b|infiniband|\b[nhe]dr\b|\bcx-?\d",
    NVLINK: r"intra-?node|nvlink|\bnvl\d*\b|nvswitch",
}
"""Words of a network by its technology, tried in this order."""

UNSTATED = "not stated"

ONE_NODE = {
    "a100": "single-node-a100",
    "h100": "single-node-h100",
    "h200": "single-node-h200",
    "b200": "single-node-b200",
    "b300": "single-node-b200",
    "h800": "dgx-h800",
    "gb200": "gb200-nvl72",
    "gb300": "gb200-nvl72",
    "mi300x": "single-node-mi300x",
    "a100-pcie": "pcie-a100-2nic",
}
"""Topology of GPUs of one node, or of one NVLink domain, by chip; a B300 has the NVLink of a B200."""

MANY_NODES = {
    "a100": "dgx-a100",
    "h100": "dgx-h100",
    "h200": "dgx-h200",
    "b200": "dgx-b200",
    "b300": "dgx-b200",
    "h800": "dgx-h800",
    "gb200": "gb200-nvl72",
    "gb300": "gb200-nvl72",
    "a100-pcie": "pcie-a100-2nic",
}
"""Topology of several nodes, by chip; NICs are those that the row says."""

OWN_TOPOLOGY = {("a100", "slingshot"): "polaris"}
"""Topology of a technology whose constants are not those of InfiniBand, by chip and technology."""

STAND_INS = {"b300": "b200", "gb300": "gb200"}
"""Chips whose NVLink constants are another one's."""

_NICS = re.compile(r"(\d+)\s*x\s*(\d+)\s*g", re.IGNORECASE)
_CXI_SETUP = re.compile(r"env-setup (\d+)")
TUNED_SETUPS = {"polaris": (4, 5), "sirius": (4, 5), "sophia": (6,)}
"""argonne-lcf/alcf-nccl-tests runs each system with several settings; of the others some are slow on purpose."""


@dataclass(frozen=True)
class Run:
    """What a row says of where it ran: GPUs in all on equal nodes, and the words of the system and its network.

    gpus_per_node: those of a server.  source: words that name the GPU where `system` is empty.
    """

    system: str
    nic: str
    gpus: int
    nodes: int
    gpus_per_node: int
    source: str = ""


def run_of(row: Mapping[Any, Any]) -> Run:
    """Where a row of `sim.calibrate.collective_rows` ran."""
    system, nic, said = (str(row[name]) for name in ("system", "nic", "source"))
    gpus, nodes, gpus_per_node = (int(row[name]) for name in ("gpus", "nodes", "gpus_per_node"))
    return Run(system, nic, gpus, nodes, gpus_per_node, "" if system else said)


@dataclass(frozen=True)
class Site:
    """A topology that ships, with the size and the NICs of a measured run.

    constants: whose constants of the network these are: empty where the topology's own, else in words.
    """

    topology: str
    technology: str
    constants: str
    run: Run
    file: TopologyFile
    overrides: Mapping[str, object]

    @cached_property
    def spec(self) -> FabricSpec:
        """Its numbers."""
        return fabric_spec(self.file, self.overrides)

    @cached_property
    def fabric(self) -> Fabric:
        """Its links."""
        return self.spec.build()

    @property
    def is_fitted(self) -> bool:
        """Whether the topology has constants of NCCL for the links that the run crosses."""
        nccl = self.file.tree.get("nccl") or {}
        return ("nvlink" if self.technology == NVLINK else "network") in nccl

    @cached_property
    def members(self) -> Ints:
        """The GPUs that ran: the first ones of each node, (1, gpus). Raises SimError where the node has fewer."""
        is_one_domain = self.technology == NVLINK or "racks" in self.file.tree
        return placed(self.fabric, self.run.gpus, 1 if is_one_domain else self.run.nodes)


def placed(fabric: Fabric, gpus: int, nodes: int) -> Ints:
    """The first gpus / nodes of each of the first nodes, (1, gpus); with `nodes` 1 the first GPUs, wherever they are.

    Raises SimError where the fabric is smaller.
    """
    stride = gpus if nodes == 1 else fabric.gpus_per_node
    each = gpus // nodes
    if nodes * stride > fabric.num_gpus or each > stride:
        has = f"{fabric.num_gpus} GPUs, {fabric.gpus_per_node} a node"
        raise SimError(f"the topology is too small (got {gpus} GPUs on {nodes} nodes, allowed up to {has})")
    return (np.arange(nodes)[:, None] * stride + np.arange(each)).reshape(1, -1)


def why_mistuned(system: str, note: str) -> str:
    """Why a row tells nothing of the hardware: its settings are known to be slow. Empty where they are not."""
    match = _CXI_SETUP.search(note)
    site = next((name for name in TUNED_SETUPS if name in system.lower()), None)
    if match is None or site is None or int(match[1]) in TUNED_SETUPS[site]:
        return ""
    tuned = ", ".join(map(str, TUNED_SETUPS[site])) or "none"
    return f"settings that are slow on purpose: env-setup {match[1]} of {site} (tuned: {tuned})"


@lru_cache(maxsize=1024)
def site_of(run: Run, topology: str | None = None) -> Site | str:
    """The topology of a run, or why there is none; `topology` names it, whatever the words are."""
    if topology is not None:
        return site_on(_file(topology), run)
    technology = _technology(run)
    known = device(run.system or run.source)
    if known is None:
        return f"no topology of this system ships: {run.system or run.source!r}"
    chip = known.gpu.split("-")[0] + ("-pcie" if known.gpu.endswith("-pcie") else "")
    own = OWN_TOPOLOGY.get((chip, technology))
    name = own or (ONE_NODE if technology == NVLINK else MANY_NODES).get(chip)
    if name is None:
        return f"no topology of {chip} ships"
    constants = [f"NVLink of {STAND_INS[chip]}"] if chip in STAND_INS else []
    if own is None and technology not in (NVLINK, "infiniband"):
        constants.append("network of InfiniBand")
    if technology != NVLINK and not _NICS.search(run.nic):
        constants.append("NICs not stated")
    return _site(_file(name), technology, ", ".join(constants), run)


def site_on(file: TopologyFile, run: Run) -> Site | str:
    """The site of a run on a topology that is known, or why it cannot be there."""
    return _site(file, _technology(run), "", run)


def _technology(run: Run) -> str:
    if run.nodes == 1:
        return NVLINK
    words = run.nic.lower()
    return next((name for name, pattern in TECHNOLOGIES.items() if re.search(pattern, words)), UNSTATED)


def _site(file: TopologyFile, technology: str, constants: str, run: Run) -> Site | str:
    topology, tree = file.name, file.tree
    overrides: dict[str, object] = {}
    if technology != NVLINK and (match := _NICS.search(run.nic)):
        file, overrides = _with_nics(file, int(match[1]), f"{match[2]} Gbit/s", run)
    if "nodes" in tree:
        overrides["nodes"] = run.nodes
    elif "racks" in tree:
        overrides["racks"] = -(-run.gpus // (tree["trays_per_rack"] * tree["gpus_per_tray"]))
    site = Site(topology, technology, constants, run, file, overrides)
    try:
        assert site.members.shape == (1, run.gpus)
    except SimError as error:
        return f"{topology} cannot have it: {error}"
    return site


@lru_cache(maxsize=64)
def _file(topology: str) -> TopologyFile:
    return read_topology(topology)


def _with_nics(file: TopologyFile, num_nics: int, rate: str, run: Run) -> tuple[TopologyFile, dict[str, object]]:
    """The topology with the NICs of a server that a row says: as many as GPUs on rails, else shared in a fat tree."""
    tree = file.tree
    if "gpus_per_node" not in tree or "nic" not in tree:
        return file, {}
    num_gpus = run.gpus_per_node if run.gpus_per_node % num_nics == 0 else tree["gpus_per_node"]
    overrides: dict[str, object] = {"gpus_per_node": num_gpus, "nic.bandwidth": rate}
    is_shared = "nics_per_node" in tree
    if num_gpus % num_nics or (num_nics == num_gpus and not is_shared):
        return file, overrides
    if tree["fabric"] == "rail_optimized":
        file, is_shared = _shared(file), True
    return file, overrides | ({"nics_per_node": num_nics} if is_shared else {})


def _shared(file: TopologyFile) -> TopologyFile:
    """A rail fabric as a fat tree of the same ports and switches, in which GPUs share NICs."""
    renamed = {"nodes_per_unit": "nodes_per_leaf"}
    tree = {renamed.get(key, key): value for key, value in file.tree.items()}
    sources = {renamed.get(key, key): said for key, said in tree["sources"].items()}
    sources["nics_per_node"] = "the columns of the measurement"
    tree |= {"fabric": "fat_tree", "nics_per_node": 1, "sources": sources}
    return TopologyFile(file.path, file.head, tree)
