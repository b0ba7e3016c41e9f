"""Finished runs that differ by their seeds, as pairs: an additional output of `jaxnets compare` for two such sets."""

import json
from collections.abc import Sequence
from typing import Any


def paired_rows(entries: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """The sentences about two sets of runs, and a table of their paired differences; both empty if there are no such sets.

    The runs of a set have the same configuration but for the seed, and the two sets have at least two seeds in common.

    Args:
        entries: of `runs.catalog`.
    """
    sets: dict[str, dict[int, Any]] = {}
    for entry in entries:
        config = {name: value for name, value in entry.config.items() if name != "seed"}
        seed = entry.config.get("seed")
        if isinstance(seed, int):
            sets.setdefault(json.dumps(config, sort_keys=True), {})[seed] = entry
    if len(sets) != 2:
        return [], []
    first, second = sets.values()
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return [], []
    from jaxnets.checkpoints.retention import direction
    from jaxnets.evidence.paired import paired_by_seed

    rows = []
    common = [
        name for name in first[seeds[0]].scores if all(name in one[s].scores for one in (first, second) for s in seeds)
    ]
    for name in common:
        better = direction(name)
        if better is None:
            continue
        a, b = ({s: one[s].scores[name] for s in seeds} for one in (first, second))
        found = paired_by_seed(a, b, better)
        if found.pairs < 2:
            continue
        says = "unclear: the interval contains 0" if found.verdict == "unclear" else f"B is {found.verdict}"
        more = found.more_seeds() if found.verdict == "unclear" else 0
        needed = "" if found.verdict != "unclear" else "very many" if more is None else f"{more:,}"
        rows.append([name, f"{found.mean:+.4g}", f"± {found.half:.2g}", str(found.pairs), says, needed])
    who = [", ".join(one[s].name for s in sorted(one)) for one in (first, second)]
    return [f"pairs by seed: A is {who[0]}; B is {who[1]}"], rows


HEADER = ["B - A", "mean", "95 % interval", "pairs", "", "more seeds needed"]
