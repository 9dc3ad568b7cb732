"""The tables of VIA-Research/vTrain (arXiv 2312.12391): steps of Megatron-DeepSpeed on nodes of eight A100."""

from __future__ import annotations

from pathlib import Path

from sim.errors import Problem, SimError
from sim.validation.published import COLUMNS, PublishedRun, read_cells

THEIRS = {
    "num_gpus": "# GPUs",
    "global_batch": "global batch",
    "micro_batch": "micro batch",
    "hidden": "hidden size",
    "heads": "attention heads",
    "layers": "# layers",
    "seq_len": "sequence length",
    "TP": "tensor parallelism",
    "PP": "pipeline parallelism",
}
"""Our column -> theirs."""

TIME = "iteration time (ms)"
DATA_PARALLEL = "data parallelism"

ALL_ROWS = {
    "source": "vTrain",
    "year": "2023",
    "gpu": "a100-80gb",
    "gpus_per_node": "8",
    "network": "4x200Gb/s HDR InfiniBand per node",
    "kind": "dense",
    "gated_mlp": "0",
    "vocab": "50257",
    "tied_embeddings": "1",
    "sequence_parallel": "0",
    "shard": "none",
    "precision": "fp16",
    "recompute": "full",
    "flash_attn": "0",
    "framework": "Megatron-DeepSpeed",
}
"""arXiv 2312.12391 section IV: A100-80GB, 800 Gb/s InfiniBand a node; the tool's defaults for format and vocabulary."""


def read_vtrain(path: Path) -> list[PublishedRun]:
    """Rows of a table of theirs, in our columns.

    The tier is A for steps of several nodes, which are measured, and `composed` for those of one node: their times are
    linear in micro-batches to the last digit, so they are sums of layer timings.

    Raises SimError where the file is none of their tables, or a row's axes do not multiply to its GPUs.
    """
    required = (*THEIRS.values(), DATA_PARALLEL, TIME)
    return [_run(path, line, cells, number) for number, (line, cells) in enumerate(read_cells(path, required), 1)]


def _run(path: Path, line: int, theirs: dict[str, str], number: int) -> PublishedRun:
    cells = dict.fromkeys(COLUMNS, "") | ALL_ROWS
    cells |= {ours: theirs[name] for ours, name in THEIRS.items()}
    time = PublishedRun(str(path), line, {TIME: theirs[TIME]}).positive(TIME)
    if time is None:
        raise SimError(Problem("missing (allowed a number above 0)", path=TIME, file=str(path), line=line))
    cells["step_time_derived_s"] = repr(time / 1e3)
    run = PublishedRun(str(path), line, cells)
    axes = {name: run.count(name) for name in ("TP", "PP", "num_gpus")}
    dp = PublishedRun(str(path), line, {DATA_PARALLEL: theirs[DATA_PARALLEL]}).count(DATA_PARALLEL)
    tp, pp, num_gpus = (value or 0 for value in axes.values())
    if tp * pp * (dp or 0) != num_gpus:
        message = f"tp * dp * pp = {tp} * {dp} * {pp}, but the row has {num_gpus} GPUs"
        raise SimError(Problem(message, path=DATA_PARALLEL, file=str(path), line=line))
    cells["tier"] = "A" if num_gpus > 8 else "composed"
    size = f"{theirs.get('Parameters (billion)', '')}B" if theirs.get("Parameters (billion)") else f"h{cells['hidden']}"
    cells["model"] = f"GPT {size}"
    cells["case_id"] = f"vtrain_{number}_{size}_{num_gpus}_tp{tp}-dp{dp}-pp{pp}_mb{cells['micro_batch']}"
    return PublishedRun(str(path), line, cells)
