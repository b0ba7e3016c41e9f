"""Which rows of a data set are held out."""

import numpy as np

from jaxnets.core.errors import DataError


def split_rows(
    targets: np.ndarray, share: float, by: str, seed: int, *, groups: np.ndarray | None = None, what: str = "holdout"
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers that stay and row numbers that are set aside, both in rising order.

    Args:
        targets: `[N, ...]`; class numbers if `by` is "class".
        share: of the rows (of the groups, where there are some) that are set aside.
        by: "random", "class" or "time".
        seed: of the draw.
        groups: `[N]`: rows of one group stay together.
        what: for messages.

    Raises:
        DataError: one part would be empty.
    """
    rng, count = np.random.default_rng(seed), len(targets)
    if groups is not None:
        names, group = np.unique(groups, return_inverse=True)
        drawn = rng.permutation(len(names))[: round(share * len(names))]
        aside = np.isin(group.ravel(), drawn)
    elif by == "time":
        aside = np.arange(count) >= count - round(share * count)
    elif by == "class":
        aside = np.zeros(count, bool)
        aside[_of_each_class(targets, share, rng)] = True
    else:
        aside = np.zeros(count, bool)
        aside[rng.permutation(count)[: round(share * count)]] = True
    if not 0 < aside.sum() < count:
        units = f"{len(names)} groups" if groups is not None else f"{count} examples"
        raise DataError(
            f"{what} of {units} leaves an empty split; give more examples, another share in (0, 1), or arrays of your own"
        )
    return np.flatnonzero(~aside), np.flatnonzero(aside)


def _of_each_class(targets: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Rows with the same share of every class: the largest remainders are rounded up, so the total is the share of all."""
    flat = targets.reshape(len(targets), -1)[:, 0]
    classes, counts = np.unique(flat, return_counts=True)
    wanted = counts * share
    taken = np.floor(wanted).astype(int)
    missing = round(share * len(flat)) - int(taken.sum())
    for place in np.argsort(taken - wanted, kind="stable")[: max(0, missing)]:
        taken[place] += taken[place] + 1 < counts[place]  # a class is never set aside whole
    parts = [
        rng.permutation(np.flatnonzero(flat == label))[:number] for label, number in zip(classes, taken, strict=True)
    ]
    return np.concatenate(parts)
