"""SimPy events in the form that the hot path uses."""

from __future__ import annotations

import simpy


def triggered(env: simpy.Environment, value: object = None) -> simpy.Event:
    """An event that has happened but is not in the heap yet, so that scheduling it is all that is left.

    It can be scheduled again once it was processed, with callbacks and `_value` set anew. SimPy has no public way to
    make one: `Timeout` schedules itself at once and is used up, `succeed` schedules without a delay.
    """
    event = simpy.Event(env)
    event._ok, event._value = True, value  # noqa: SLF001 - see above
    return event
