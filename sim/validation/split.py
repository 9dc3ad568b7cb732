"""The layout of a row: parallel axes, ZeRO's stage, the schedule, and which stage holds how many layers."""

from __future__ import annotations

import re
from typing import Any

from sim.validation.draft import CannotSimulate, Draft

SCHEDULES = {"zb-2p": "zb_2p", "zb-1p": "zb_1p", "zb-v": "zb_v", "gpipe": "gpipe"}
"""Published name -> ours, of schedules that are not 1F1B: arXiv 2401.10241 (ZB-1p, ZB-2p), arXiv 1811.06965."""

ZERO_STAGES = {r"zero.?2": 2, r"zero.?3|fsdp": 3, r"zero.?1|distributed (optimizer|fused)": 1}
"""Words of the column `shard` -> ZeRO's stage, first match; 0 for any other words."""


def add_layout(draft: Draft) -> None:
    """Put the layout into the draft. Raises CannotSimulate where the axes are unknown or do not fit the GPUs."""
    run = draft.run
    tp, pp = draft.needed("TP", "the layout"), draft.needed("PP", "the layout")
    cp, vpp = run.count("CP") or 1, run.count("VPP") or 1
    num_gpus = draft.needed("num_gpus", "the number of GPUs")
    if num_gpus % (tp * pp * cp):
        raise CannotSimulate(f"tp * pp * cp = {tp * pp * cp} does not divide {num_gpus} GPUs")
    dp = num_gpus // (tp * pp * cp)
    layout: dict[str, Any] = {"tp": tp, "cp": cp, "dp": dp, "pp": pp, "vpp": vpp, "ep": run.count("EP") or 1}
    layout["sequence_parallel"] = _sequence_parallel(draft, tp)
    layout["zero"] = _zero(draft, dp=dp * cp, pp=pp)
    layout["shard"] = _shard(draft, replicas=dp * cp, zero=layout["zero"])
    layout["schedule"] = _schedule(draft, pp=pp, vpp=vpp)
    if run.count("num_experts"):
        layout["etp"] = _expert_tensor(draft, layout)
    draft.values["layout"] = layout


def _sequence_parallel(draft: Draft, tp: int) -> bool:
    if tp == 1:
        return False
    given = draft.run.flag("sequence_parallel")
    if given is None or (draft.run.count("num_experts") and not given):
        given = (draft.run.number("year") or 2024) > 2021
        draft.assume(f"sequence parallelism {'on' if given else 'off'} (not stated)")
    return given


def _zero(draft: Draft, *, dp: int, pp: int) -> int:
    """ZeRO's stage in the words of the column `shard`."""
    text = draft.run.text("shard")
    if dp == 1:
        return 0
    stage = next((stage for pattern, stage in ZERO_STAGES.items() if re.search(pattern, text)), 0)
    if stage == 2 and pp > 1:
        draft.assume("ZeRO-1 for ZeRO-2 (gradients reduced once a step)")
        return 1
    if not text:
        is_late = (draft.run.number("year") or 2024) >= 2023
        draft.assume(f"ZeRO-{int(is_late)} (not stated)")
        return int(is_late)
    return stage


def _shard(draft: Draft, *, replicas: int, zero: int) -> int | None:
    """Ranks of a shard group, where the words of the column `shard` name fewer than all."""
    found = re.search(r"over (\d+) ranks|fsdp (\d+) x dp", draft.run.text("shard"))
    over = int(found[1] or found[2]) if found else replicas
    if zero == 0 or over >= replicas:
        return None
    if over == 1 or replicas % over or draft.run.count("num_experts"):
        draft.assume(f"sharded over all {replicas} ranks of data parallelism, not over {over}")
        return None
    return over


def _schedule(draft: Draft, *, pp: int, vpp: int) -> str:
    text = draft.run.text("schedule")
    for name, ours in SCHEDULES.items():
        if text.startswith(name):
            return ours
    if text.startswith("dualpipe"):
        draft.assume("1F1B for DualPipe")
    if "modified" in text:
        draft.assume("interleaved 1F1B for a variant of it")
    if "interleaved" in text and vpp == 1 and pp > 1 and draft.run.count("VPP") is None:
        draft.assume("one stage a rank (VPP not stated)")
    return "interleaved_1f1b" if vpp > 1 and pp > 1 else "1f1b"


def _expert_tensor(draft: Draft, layout: dict[str, Any]) -> int:
    given = draft.run.count("ETP")
    if given:
        return given
    if layout["tp"] > 1:
        draft.assume("experts are not split by tensor parallelism (ETP not stated)")
    return 1


def stage_layers(num_layers: int, stages: int) -> list[int] | dict[str, int] | None:
    """Layers of each virtual stage where they do not divide evenly: embedding and head count as a layer each where
    that divides, else the head alone, else the first stages have one more. None where they divide.

    >>> stage_layers(8, 4), stage_layers(126, 64), stage_layers(15, 4), stage_layers(9, 4)
    (None, {'first': 1, 'last': 1}, [4, 4, 4, 3], [3, 2, 2, 2])
    """
    whole, rest = divmod(num_layers, stages)
    if rest == 0:
        return None
    if (num_layers + 2) % stages == 0:
        return {"first": whole, "last": whole}
    if (num_layers + 1) % stages == 0:
        return [whole + 1] * (stages - 1) + [whole]
    return [whole + (stage < rest) for stage in range(stages)]
