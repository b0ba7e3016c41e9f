"""A scaling law of losses at several sizes: `loss = floor + scale * size ** -exponent`.

The constants minimise the squares of `log(mean loss) - log(law)`, so every size counts by its relative error, as in Hoffmann
et al. 2022 ("Training compute-optimal large language models", who take Huber's loss). Their intervals are a bootstrap over
seeds: the seeds are drawn again with replacement, each with its losses at all sizes, and the law is fitted again. With few
seeds the percentiles of a bootstrap lie too close together, so those are taken that would give Student's interval for a mean
(the expanded percentiles of Hesterberg 2015, "What teachers should know about the bootstrap").
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxnets.core.errors import UsageError
from jaxnets.evidence.paired import interval

LEVEL = 0.95
DRAWS = 400
# A floor below this share of the lowest loss is none.
NO_FLOOR = 1e-4
# First guesses of the floor, as shares of the lowest loss.
FLOORS = (0.2, 0.6, 0.9, 0.99)
# Without intervals of the means, a law that misses one by more than this share fits it poorly.
POOR = 0.05
# An interval of a mean is at least this share of it wide.
ROUNDING = 1e-3

Constants = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Law:
    """A fitted law with its intervals."""

    constants: Constants
    """Floor, scale, exponent."""
    sizes: tuple[float, ...]
    """The fitted sizes, in rising order."""
    means: tuple[float, ...]
    """The mean loss at each size."""
    halves: tuple[float, ...]
    """Half of the width of its interval; NaN for one seed."""
    drawn: tuple[Constants, ...]
    """The constants of the bootstrap; () for one seed."""
    seeds: int
    """Seeds with a loss at every size."""
    over: str = "examples"
    """The unit of the sizes."""
    what: str = "loss"
    """The name of the loss."""

    @property
    def floor(self) -> float:
        """The limit of the loss for large sizes; 0: these losses show no floor."""
        return self.constants[0]

    @property
    def scale(self) -> float:
        """The factor of the power."""
        return self.constants[1]

    @property
    def exponent(self) -> float:
        """The power with which the loss above the floor falls; negative where it rises."""
        return self.constants[2]

    def at(self, size: float) -> float:
        """The loss at a size."""
        return _value(self.constants, size)

    def needed(self, loss: float) -> float:
        """The size at which the law reaches a loss; infinite at the floor and below, NaN where the law does not fall."""
        if loss <= self.floor:
            return math.inf
        if self.exponent <= 0:
            return math.nan
        return float(math.exp(min(700.0, (math.log(self.scale) - math.log(loss - self.floor)) / self.exponent)))

    def interval(self, of: Callable[[Constants], float]) -> tuple[float, float]:
        """The 95 % interval of a function of the constants (`lambda c: c[2]`); NaN for one seed."""
        if not self.drawn:
            return math.nan, math.nan
        from scipy.special import ndtr, stdtrit

        wide = math.sqrt(self.seeds / (self.seeds - 1)) * float(stdtrit(self.seeds - 1, (1 + LEVEL) / 2))
        low, high = np.quantile([of(constants) for constants in self.drawn], [ndtr(-wide), ndtr(wide)])
        return float(low), float(high)

    def at_interval(self, size: float) -> tuple[float, float]:
        """The interval of the law at a size."""
        return self.interval(lambda constants: _value(constants, size))

    def notes(self) -> list[str]:
        """Reasons not to trust the law, in sentences."""
        found = []
        apart = np.array([abs(self.at(size) / mean - 1) for size, mean in zip(self.sizes, self.means, strict=True)])
        shares = np.divide(self.halves, self.means)
        # With few seeds the losses at some size may be close together by chance; such an interval is too narrow.
        allowed = np.fmax(np.fmax(shares, np.nanmedian(shares)), ROUNDING) if self.drawn else np.full(len(shares), POOR)
        # Beside their intervals the misses of the right law have a mean square well below 1.
        if np.mean(np.square(apart / allowed)) > 1:
            worst = int(np.argmax(apart / allowed))
            found.append(
                f"the fit is poor: at {self.sizes[worst]:,.0f} {self.over} the law misses the mean {self.what} by "
                f"{apart[worst]:.1%}, where ± {allowed[worst]:.1%} would be chance"
            )
        if len(self.sizes) == 3:
            found.append("three sizes for three constants leave nothing to check the law by; add a size")
        if self.exponent <= 0:
            found.append(f"the {self.what} does not fall with the {self.over}")
        elif self.drawn:
            low, high = self.interval(lambda constants: constants[2])
            if low <= 0 <= high:
                found.append(f"the interval of the exponent contains 0: that the {self.what} falls may be chance")
        if not self.drawn:
            found.append("one seed gives no interval")
        return found

    def __str__(self) -> str:
        parts = [
            f"{name} {value:.3g}{_ends(*self.interval(lambda constants, n=n: constants[n]))}"  # type: ignore[misc]
            for n, (name, value) in enumerate(zip(("floor", "scale", "exponent"), self.constants, strict=True))
        ]
        lines = [f"{self.what} = floor + scale * {self.over} ** -exponent: {', '.join(parts)}"]
        largest = self.sizes[-1]
        for times in (2, 10):
            size = times * largest
            lines.append(
                f"{times} x as many, {size:,.0f} {self.over}: {self.at(size):.4g}{_ends(*self.at_interval(size))}"
            )
        return "\n".join([*lines, *self.notes()])


def fit_law(
    sizes: Sequence[float], losses: np.ndarray, *, over: str = "examples", what: str = "loss", draws: int = DRAWS
) -> Law:
    """Fit a law.

    Args:
        sizes: three or more, positive and distinct.
        losses: positive, `[seeds, sizes]`.
        over: what the sizes count, for messages.
        what: what the losses are, for messages.
        draws: of the bootstrap.

    Raises:
        UsageError: fewer than three sizes, or a loss that is not positive.
    """
    order = np.argsort(sizes)
    x, every = np.asarray(sizes, np.float64)[order], np.asarray(losses, np.float64)[:, order]
    if len(set(sizes)) < 3 or len(set(sizes)) < len(sizes) or x[0] <= 0:
        raise UsageError(
            f"a law has three constants, so it takes three sizes or more, positive and distinct; got "
            f"{', '.join(f'{size:g}' for size in sizes)}"
        )
    if not len(every) or not (np.isfinite(every).all() and (every > 0).all()):
        raise UsageError(
            f"a law is of losses above 0, of a seed at least that ended at every size; got {every.tolist()}"
        )
    means = every.mean(axis=0)
    constants, rng = _constants(x, means), np.random.default_rng(0)
    known: dict[tuple[int, ...], Constants] = {}
    drawn = []
    for _ in range(draws if len(every) > 1 else 0):
        chosen = tuple(sorted(rng.integers(len(every), size=len(every)).tolist()))
        if chosen not in known:  # of few seeds there are few draws
            known[chosen] = _constants(x, every[list(chosen)].mean(axis=0))
        drawn.append(known[chosen])
    halves = tuple(interval(column.tolist())[1] for column in every.T)
    return Law(constants, tuple(x.tolist()), tuple(means.tolist()), halves, tuple(drawn), len(every), over, what)


def _value(constants: Constants, size: float) -> float:
    floor, scale, exponent = constants
    return floor + scale * size**-exponent


def _constants(sizes: np.ndarray, losses: np.ndarray) -> Constants:
    """The best constants from several first guesses; the floor is 0 unless one fits better."""
    from scipy.optimize import leastsq  # a dependency of jax; its import takes time
    from scipy.special import expit

    middle, logs = float(np.log(sizes).mean()), np.log(losses)
    place = np.log(sizes) - middle  # around 0, so that scale and exponent are not one for the other

    def straight(above: np.ndarray) -> tuple[float, float]:
        slope, level = np.polyfit(place, np.log(above), 1)
        return float(level), float(-slope)

    def residuals(guess: np.ndarray) -> np.ndarray:
        floor, level, exponent = guess
        found: np.ndarray = np.logaddexp(floor, level - exponent * place) - logs
        return found

    def slopes(guess: np.ndarray) -> np.ndarray:
        floor, level, exponent = guess
        share = expit(level - exponent * place - floor)  # of the loss, above the floor
        return np.stack([1 - share, share, -share * place], axis=1)

    level, exponent = straight(losses)
    plain = np.array([-np.inf, level, exponent])
    best, error = plain, float(np.square(residuals(plain)).sum())
    for share in FLOORS:
        floor = share * losses.min()
        first = [math.log(floor), *straight(losses - floor)]
        found = leastsq(residuals, first, Dfun=slopes, xtol=1e-12, ftol=1e-12, full_output=True)[0]
        now = float(np.square(residuals(found)).sum())
        # A floor must improve the fit by more than rounding, and be large enough.
        if now < error * (1 - 1e-9) and found[0] > math.log(NO_FLOOR * losses.min()):
            best, error = found, now
    floor, level, exponent = best
    return float(np.exp(floor)), float(np.exp(level + exponent * middle)), float(exponent)


def _ends(low: float, high: float) -> str:
    return f" ({low:.3g} to {high:.3g})" if math.isfinite(low) else ""
