"""Loss spikes: alarms, remedies and what they cost."""

import numpy as np
import pytest

from sim.longrun.alarms import above, alarm, runbook_s, steps_to_a_run
from sim.longrun.load import load
from sim.longrun.run import play, replicate
from sim.spec.spikes import Spikes


def spikes(**changes):
    fields = {
        "name": "made",
        "title": "made",
        "per_1000_steps": 1.0,
        "sigmas": 30.0,
        "heals_frac": 0.0,
        "rules": ({"signal": "loss", "sigmas": 8.0},),
        "acts_alone": False,
        "remedies": ({"action": "roll_back_and_skip", "rollback_steps": 100, "skip_batches": 350, "cures_frac": 1.0},),
        "runbook": (),
        "sources": dict.fromkeys(("per_1000_steps", "sigmas", "heals_frac", "rules", "remedies", "runbook"), "made"),
    }
    return fields | changes


def quiet(make, entry, **changes):
    return make(
        failures=entry({"node": {"per_1000_days": 1e-6}}),
        checkpoint={"mode": "sync", "every_steps": 50, "persist_s": 0.0, "load_s": 3.0},
        restart_s=20.0,
        window_s=3e5,
        **changes,
    )


def test_two_sigmas_cry_wolf_every_44_steps() -> None:
    found = alarm(Spikes.model_validate(spikes(rules=({"signal": "loss", "sigmas": 2.0},))))
    assert found.false_every_steps == pytest.approx(43.96, abs=0.01)


@pytest.mark.parametrize(("sigmas", "length"), [(0.5, 1), (0.5, 2), (0.2, 3)])
def test_false_alarms_of_runs_are_as_rare_in_drawn_noise(sigmas, length) -> None:
    noise = np.random.default_rng(0).standard_normal(400_000) > sigmas
    run, alarms = 0, 0
    for is_above in noise:
        run = run + 1 if is_above else 0
        if run == length:
            alarms, run = alarms + 1, 0
    assert len(noise) / alarms == pytest.approx(steps_to_a_run(above(sigmas), length), rel=0.02)


def test_two_signals_together_are_rarer_by_the_product() -> None:
    loss, both = ({"signal": "loss", "sigmas": 2.0},), ({"signal": "gradient_norm", "sigmas": 3.0},)
    found = alarm(Spikes.model_validate(spikes(rules=(*loss, *both))))
    assert found.false_every_steps == pytest.approx(1 / above(2) / above(3))


def test_a_diagnosis_stops_where_the_cause_is_found() -> None:
    steps = load("llama3.1-405b_16384xh100_54-days", ["spikes=palm"]).spikes.runbook
    hand_min = 5 + 0.7 * (15 + 0.7 * (15 + 0.8 * (30 + 0.7 * 10)))
    assert runbook_s(steps) == pytest.approx(60 * hand_min)


def test_the_rule_of_palm_costs_its_steps_and_a_restart(make, entry) -> None:
    plan = quiet(make, entry, spikes=spikes())
    found = replicate(plan, 6, workers=1)
    num = sum(run.spikes for run in found)
    assert num > 1000
    # 100 steps back, then to the checkpoint before: 25 more on average; and one step until it is seen.
    assert sum(run.lost for run in found) / num == pytest.approx(100 + 25 + 1, rel=0.03)
    assert sum(run.seconds["load"] for run in found) == pytest.approx(3.0 * num, rel=0.02)
    assert sum(run.skipped_tokens for run in found) == pytest.approx(350e6 * num, rel=0.02)


def test_spikes_that_heal_cost_nothing(make, entry) -> None:
    found = play(quiet(make, entry, spikes=spikes(heals_frac=1.0)), np.random.SeedSequence(0))
    assert found.healed == found.spikes > 100
    assert (found.lost, found.seconds["load"]) == (0, 0.0)


def test_remedies_are_tried_in_order(make, entry) -> None:
    remedies = tuple(
        {"action": action, "cures_frac": cures}
        for action, cures in (("roll_back_and_skip", 0.5), ("lower_learning_rate", 0.5), ("use_bf16", 1.0))
    )
    found = replicate(quiet(make, entry, spikes=spikes(remedies=remedies)), 6, workers=1)
    first, second, third = (sum(run.remedies[remedy["action"]] for run in found) for remedy in remedies)
    assert second / first == pytest.approx(0.5, abs=0.05)
    assert third / second == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("acts_alone", [False, True])
def test_false_alarms_cost_a_look_or_a_rollback(make, entry, acts_alone) -> None:
    rules = ({"signal": "loss", "sigmas": 2.5},)
    runbook = ({"look_at": "batch", "time_s": 7.0, "finds_frac": 1.0},)
    plan = quiet(make, entry, spikes=spikes(per_1000_steps=1e-6, rules=rules, runbook=runbook, acts_alone=acts_alone))
    found = play(plan, np.random.SeedSequence(1))
    assert found.false_alarms == pytest.approx(found.executed * above(2.5), rel=0.15)
    assert found.seconds["alarm"] == pytest.approx(7.0 * found.false_alarms, rel=0.02)
    assert (found.lost > 0) is acts_alone
