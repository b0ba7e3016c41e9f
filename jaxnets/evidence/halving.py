"""Successive halving: settings are compared after a part of their steps, and the best continue from their state.

At every rung `1 / rate` of the settings continues; a rung has `rate` times the steps of the previous one, the last has all
(Jamieson and Talwalkar 2016, arXiv:1502.07943). Schedules span all steps, so a surviving run equals the same run without the
others.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxnets.evidence.groups import Group
from jaxnets.evidence.sweep_result import Outcome, SweepResult


def rungs(settings: int, rate: int) -> list[float]:
    """The shares of the steps after which settings are compared, the last one 1.

    Their number is chosen so that one setting is left.
    """
    count = math.ceil(round(math.log(settings, rate), 9)) if settings > 1 else 0
    return [float(rate) ** -power for power in range(count, -1, -1)]


def halved(
    every: Sequence[Group],
    rate: int,
    metric: str,
    better: str,
    *,
    measure: Callable[[Group, float], list[Outcome]],
) -> list[Outcome]:
    """Train groups by successive halving, and return the outcome of every trial: when it was stopped, or at its end."""
    final: list[Outcome] = []
    groups, spent = list(every), {id(group): group.built_in for group in every}
    for share in rungs(len({trial.setting for group in groups for trial in group.trials}), rate):
        now: list[tuple[Group, list[Outcome]]] = []
        for group in groups:
            began = time.perf_counter()
            group.advance(share)
            now.append((group, measure(group, time.perf_counter() - began + spent.get(id(group), 0.0))))
        found = [one for _, some in now for one in some]
        ranked = [_name(one.values) for one in SweepResult(tuple(found), metric, better).settings]
        many = len(ranked) if share == 1 else max(1, len(ranked) // rate)
        on = set(ranked[:many]) if share < 1 else set()
        final += [one for one in found if one.setting not in on]
        spent, left = {}, []
        for group, some in now:
            chosen = [number for number, one in enumerate(some) if one.setting in on]
            if chosen:
                began = time.perf_counter()
                kept = group.kept(chosen)
                left.append(kept)
                spent[id(kept)] = sum(some[n].seconds for n in chosen) + time.perf_counter() - began
        groups = left
    return final


def _name(values: Any) -> str:
    return Outcome(values, "", 0, {}).setting
