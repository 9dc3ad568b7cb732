"""Random long runs of every kind, to see that their accounts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.longrun.plan import Plan, plan
from sim.longrun.run import Outcome, play
from sim.spec.longrun import LongRunFile

CHUNK = 250
RECOVERY = ("detect", "hang_detect", "silent_detect", "diagnose", "reschedule", "init", "catch_up")


@dataclass(frozen=True)
class Audit:
    """Runs that were drawn, and what did not add up in which of them (by seed)."""

    runs: int
    failures: int
    restarts: int
    lost_steps: int
    replayed_steps: int
    violations: dict[int, tuple[str, ...]]


def audit(runs: int, seed: int, workers: int) -> Audit:
    """Play `runs` random runs and check the accounts of each."""
    seeds = range(seed, seed + runs)
    if workers == 1:
        return _audited(zip(seeds, map(drawn_run, seeds), strict=True))
    with ProcessPoolExecutor(workers) as pool:
        return _audited(zip(seeds, pool.map(drawn_run, seeds, chunksize=CHUNK), strict=True))


def _audited(runs: Iterable[tuple[int, Outcome]]) -> Audit:
    total: Counter[str] = Counter()
    violations = {}
    for seed, run in runs:
        total["runs"] += 1
        total["failures"] += sum(run.failures.values())
        total["restarts"] += run.restarts
        total["lost"] += run.lost
        total["replayed"] += run.replayed
        if run.violations:
            violations[seed] = run.violations
    return Audit(total["runs"], total["failures"], total["restarts"], total["lost"], total["replayed"], violations)


def drawn_run(seed: int) -> Outcome:
    """One random run."""
    return play(drawn_plan(seed), np.random.SeedSequence(seed))


def drawn_plan(seed: int) -> Plan:
    """A random plan: some hundred steps, and failures as often as checkpoints and restarts, so that they meet."""
    rng = np.random.default_rng(seed)
    step_s = float(rng.choice([1.0, 2.5, 7.0]))
    fields: dict[str, Any] = {
        "name": f"drawn-{seed}",
        "phases": tuple(_phase(index, step_s, rng) for index in range(int(rng.integers(1, 4)))),
        "gpus": 8 * 12,
        "gpus_per_node": 8,
        "failures": _failures(step_s, rng),
        "checkpoint": _checkpoint(step_s, rng),
        "recovery": {f"{name}_s": step_s * float(rng.choice([0.0, 1.0, 6.5])) for name in RECOVERY},
        "spares": _spares(step_s, rng),
    }
    # A draw may fail so often that it never ends; the window ends it.
    fields["window_s"] = step_s * float(rng.choice([80.0, 300.0, 1500.0]))
    if rng.random() < 0.3:
        stalls = {"reconfigure_s": step_s, "rejoin_s": step_s * float(rng.choice([0.0, 2.0]))}
        fields["elastic"] = {"replica_nodes": int(rng.choice([1, 3])), "min_replicas": int(rng.choice([1, 3]))} | stalls
    if rng.random() < 0.3:
        times = {"lasts_s": 20 * step_s, "detect_s": 5 * step_s}
        rate = 1000 * 86400 / (12 * 60 * step_s)
        fields["stragglers"] = {"per_1000_days": rate, "slowdown": 1.3, "evict": bool(rng.random() < 0.5)} | times
    if rng.random() < 0.4:
        fields["spikes"] = _spikes(rng)
    file = LongRunFile.model_validate(fields)
    return plan(file, file.name)


def _phase(index: int, step_s: float, rng: np.random.Generator) -> dict[str, Any]:
    scale = float(rng.choice([0.5, 1.0, 2.0]))
    steps = int(rng.integers(20, 200))
    return {"name": f"phase {index}", "step_time_s": scale * step_s, "tokens_per_step": 1e6, "steps": steps}


def _failures(step_s: float, rng: np.random.Generator) -> dict[str, Any]:
    """About one in 30 steps, of every scope and kind."""
    days = 86400 * 1000 / (step_s * float(rng.choice([15, 60, 240])))
    shares = {"hang_frac": 0.2, "silent_frac": float(rng.choice([0.0, 0.2])), "transient_frac": 0.3}
    components: dict[str, Any] = {
        "node": {"per_1000_days": days / 12} | shares,
        "ageing": {"per_1000_days": days / 24, "shape": float(rng.choice([0.7, 2.0]))},
        "rack": {"per_1000_days": days / 8, "scope": "group", "nodes": 4},
        "job": {"per_1000_days": days / 4, "scope": "job", "transient_frac": 1.0},
    }
    names = [name for name in components if rng.random() < 0.6] or ["node"]
    failures: dict[str, Any] = {
        "name": "drawn",
        "title": "drawn",
        "components": {name: components[name] for name in names},
        "repair_s": step_s * float(rng.choice([1.0, 30.0])),
        "sources": {"components": "drawn", "repair": "drawn"},
    }
    if "node" in names and rng.random() < 0.3:
        failures["lemons"] = {"frac": 0.2, "factor": 4.0, "evict_after": int(rng.integers(1, 4))}
        failures["sources"]["lemons"] = "drawn"
    return failures


def _checkpoint(step_s: float, rng: np.random.Generator) -> dict[str, Any]:
    mode = str(rng.choice(["sync", "async", "memory"]))
    fields: dict[str, Any] = {
        "mode": mode,
        "every_steps": int(rng.integers(2, 25)),
        "persist_s": step_s * float(rng.choice([0.0, 0.5, 3.0, 30.0])),
        "load_s": step_s * float(rng.choice([0.0, 2.0])),
        "keep": int(rng.integers(1, 5)) if rng.random() < 0.4 else None,
    }
    if mode != "sync":
        fields["snapshot_s"] = step_s * float(rng.choice([0.0, 0.3, 2.0]))
    if mode == "memory":
        fields |= {"memory_every_steps": int(rng.integers(1, 5)), "memory_copies": int(rng.integers(2, 4))}
        fields |= {"memory_snapshot_s": 0.1 * step_s, "memory_load_s": 0.5 * step_s}
    return fields


def _spares(step_s: float, rng: np.random.Generator) -> dict[str, Any]:
    nodes = int(rng.integers(0, 4))
    swap_s = step_s if nodes and rng.random() < 0.5 else None
    return {"nodes": nodes, "swap_s": swap_s, "repair_crews": int(rng.integers(1, 3)) if rng.random() < 0.5 else None}


def _spikes(rng: np.random.Generator) -> dict[str, Any]:
    remedies = (
        {"action": "roll_back_and_skip", "rollback_steps": 10, "skip_batches": 5, "cures_frac": 0.5},
        {"action": "clip_harder", "cures_frac": 0.7},
    )
    return {
        "name": "drawn",
        "title": "drawn",
        "per_1000_steps": 30.0,
        "sigmas": 5.0,
        "heals_frac": 0.3,
        "rules": ({"signal": "loss", "sigmas": float(rng.choice([2.0, 4.0])), "consecutive": 1},),
        "acts_alone": bool(rng.random() < 0.5),
        "remedies": remedies,
        "runbook": ({"look_at": "batch", "time_s": 5.0, "finds_frac": 1.0},),
        "sources": dict.fromkeys(("per_1000_steps", "sigmas", "heals_frac", "rules", "remedies", "runbook"), "drawn"),
    }
