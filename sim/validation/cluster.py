"""The GPU and the cluster of a row: a topology of the family that the source describes, of the size of the run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sim.spec.find import names
from sim.validation.draft import CannotSimulate, Draft


@dataclass(frozen=True)
class Usual:
    """Where a GPU usually stands: the topology that ships, its GPUs and NICs a node, and Gbit/s of each NIC."""

    gpu: str
    topology: str
    gpus_per_node: int = 8
    nics: int = 8
    gbit_per_s: float = 400.0


USUAL = (
    ("a100.*pcie", Usual("a100-80gb-pcie", "dgx-a100", gbit_per_s=200)),
    ("a100.*40", Usual("a100-40gb-sxm", "dgx-a100", gbit_per_s=200)),
    ("a100", Usual("a100-80gb-sxm", "dgx-a100", gbit_per_s=200)),
    ("h100.*pcie", Usual("h100-pcie", "dgx-h100")),
    ("h100", Usual("h100-sxm", "dgx-h100")),
    ("h800", Usual("h800-sxm", "dgx-h800")),
    ("h200", Usual("h200-sxm", "dgx-h200")),
    ("h20", Usual("h20", "dgx-h200")),
    ("gb200", Usual("gb200", "gb200-nvl72", gpus_per_node=4, nics=4)),
    ("gb300", Usual("gb300", "gb200-nvl72", gpus_per_node=4, nics=4, gbit_per_s=800)),
    ("b200", Usual("b200-sxm", "dgx-b200")),
    ("b300", Usual("b300-sxm", "dgx-b200", gbit_per_s=800)),
    ("v100", Usual("v100-sxm2", "dgx-a100", gbit_per_s=100)),
)
"""GPU (a regular expression over its published name) -> its usual cluster: NVIDIA's datasheets of DGX A100, H100,
H200, B200, B300 and GB200 / GB300 NVL72, and of DGX-2 for V100. The first that matches."""

KNOWN_NAMES = re.compile(
    r"(a100-(80|40)gb(-sxm)?|h100-sxm(-80gb)?|h200(-sxm)?|b200(-sxm)?|b300(-sxm)?|gb200|gb300|h800(-sxm)?|v100-32gb)"
)
"""GPUs that the catalogue has as they are named; any other name is an assumption."""

NVLINK_OF_V100 = "150 GB/s"
"""6 NVLink2 links of 25 GB/s; NVIDIA V100 datasheet."""

RACK_GPUS = 64
"""GPUs of an NVL72 rack that a job of more than one rack takes where the numbers allow it: a power of two."""

MAX_TRAYS = 18


def add_cluster(draft: Draft) -> None:
    """Put GPU and topology into the draft. Raises CannotSimulate for an unknown GPU or a part of a node."""
    usual = _usual(draft)
    draft.values["gpu"] = usual.gpu
    num_gpus = draft.needed("num_gpus", "the number of GPUs")
    if usual.topology == "gb200-nvl72":
        _add_racks(draft, usual, num_gpus)
    else:
        _add_nodes(draft, usual, num_gpus)
    if usual.gpu == "b300-sxm":
        draft.assume("NVLink and NCCL lines of DGX B200 for B300")
    if usual.gpu == "gb300":
        draft.assume("NVLink and NCCL lines of GB200 for GB300")
    if usual.gpu == "v100-sxm2":
        draft.put("topology.nvlink.bandwidth", NVLINK_OF_V100)
        draft.assume("a DGX-2 is taken as one NVLink crossbar with the NCCL lines of DGX A100")


def _usual(draft: Draft) -> Usual:
    name = draft.run.text("gpu").replace("_", "-").replace(" ", "-")
    found = next((usual for pattern, usual in USUAL if re.search(pattern, name)), None)
    if found is None:
        raise CannotSimulate(f"unknown GPU {name or 'without a name'} (allowed {', '.join(names('gpus'))})")
    if not KNOWN_NAMES.fullmatch(name):
        draft.assume(f"GPU {name} is taken as {found.gpu}")
    return found


def _network(draft: Draft, usual: Usual) -> tuple[int, float]:
    """NICs of a node, and Gbit/s of each, as the source says or as is usual."""
    text, per_node = draft.run.text("network"), draft.run.count("gpus_per_node") or usual.gpus_per_node
    if found := re.search(r"(\d+)\s*x[^0-9(]*?(\d+)\s*(g(?:bit|b)?/?p?s)", text):
        nics, rate = int(found[1]), float(found[2])
        return nics, rate * (8 if re.match(r"gb/s", _case(draft, found.start(3))) else 1)
    if found := re.search(r"(\d+)\s*gb/s per gpu", text):
        return per_node, float(found[1])
    if found := re.search(r"(\d+)\s*gb/?s[^,;)]* per node", text):
        total = float(found[1]) * (8 if re.match(r"gb/s", _case(draft, found.start(0) + len(found[1]))) else 1)
        return usual.nics, total / usual.nics
    if not re.search("single node|nvl72", text) and (draft.run.count("num_gpus") or 0) > per_node:
        draft.assume(f"network of {usual.nics} x {usual.gbit_per_s:g} Gbit/s a node ({text or 'not stated'})")
    return usual.nics, usual.gbit_per_s


def _case(draft: Draft, start: int) -> str:
    """The unit at `start` with its own capitals told apart: `gb/s` for gigabytes, anything else for gigabits."""
    unit = draft.run.cells["network"][start:].strip()
    return "gb/s" if re.match(r"GB/?p?s", unit) else "gbit/s"


def _add_nodes(draft: Draft, usual: Usual, num_gpus: int) -> None:
    per_node = min(draft.run.count("gpus_per_node") or usual.gpus_per_node, num_gpus)
    if num_gpus % per_node:
        raise CannotSimulate(f"{num_gpus} GPUs are no whole nodes of {per_node}")
    nics, gbit_per_s = _network(draft, usual)
    nics = max(1, nics * per_node // (draft.run.count("gpus_per_node") or usual.gpus_per_node))
    if per_node in (nics, num_gpus):
        draft.put("topology.use", usual.topology)
    else:
        draft.put("topology.use", "fat-tree-a100-4nic")
        draft.put("topology.nics_per_node", nics)
        if not usual.gpu.startswith("a100"):
            draft.assume("nodes with fewer NICs than GPUs have the NVLink of A100 nodes")
    draft.put("topology.nodes", num_gpus // per_node)
    draft.put("topology.gpus_per_node", per_node)
    if num_gpus > per_node:
        draft.put("topology.nic.bandwidth", f"{gbit_per_s:g} Gbit/s")


def _add_racks(draft: Draft, usual: Usual, num_gpus: int) -> None:
    """Racks of one NVLink domain: one where the job fits, else as many of 64 GPUs as it needs."""
    per_tray = min(usual.gpus_per_node, num_gpus)
    if num_gpus % per_tray:
        raise CannotSimulate(f"{num_gpus} GPUs are no whole trays of {per_tray}")
    trays = num_gpus // per_tray
    most = RACK_GPUS // per_tray if trays % (RACK_GPUS // per_tray) == 0 else MAX_TRAYS
    trays_per_rack = trays if trays <= MAX_TRAYS else max(size for size in range(1, most + 1) if trays % size == 0)
    if trays > trays_per_rack:
        draft.assume(f"{trays // trays_per_rack} racks of {trays_per_rack * per_tray} GPUs")
    _, gbit_per_s = _network(draft, usual)
    draft.put("topology.use", usual.topology)
    draft.put("topology.racks", trays // trays_per_rack)
    draft.put("topology.trays_per_rack", trays_per_rack)
    draft.put("topology.gpus_per_tray", per_tray)
    draft.put("topology.nic.bandwidth", f"{gbit_per_s:g} Gbit/s")
