"""Data sets by name, for a notebook."""

from jaxnets.core.errors import DataError, did_you_mean
from jaxnets.data.dataset import Dataset, Source
from jaxnets.data.sources.graph_sets import Cora, KarateClub, Rings
from jaxnets.data.sources.images import CIFAR10, MNIST, Digits, FashionMNIST
from jaxnets.data.sources.moving_digits import MovingDigits
from jaxnets.data.sources.overlaid_digits import OverlaidDigits
from jaxnets.data.sources.pairs import Multi30k, ReversedWords
from jaxnets.data.sources.ring import Ring
from jaxnets.data.sources.sentences import RottenTomatoes
from jaxnets.data.sources.series import Series
from jaxnets.data.sources.synthetic import AddingProblem, CopyProblem, TwoSpirals
from jaxnets.data.sources.tables import California, Tabular
from jaxnets.data.sources.text import Text


def load(name: str) -> Dataset:
    """A named data set, with its default options: `load("digits")`.

    Names: digits, iris, wine, karate_club, airline_passengers and sunspots (bundled); ring, rings, adding_problem,
    copy_problem, two_spirals, moving_digits and overlaid_digits (made from a seed); mnist, fashion_mnist, cifar10,
    california, cora, etth1, shakespeare, reversed_words, multi30k and rotten_tomatoes (found through `JAXNETS_DATA`, else
    downloaded once). A path to an `.npz` file with `inputs` and `targets` works too.

    Raises:
        DataError: an unknown name, or data that cannot be found or downloaded.
    """
    sources: dict[str, Source] = {
        "digits": Digits(),
        "iris": Tabular("iris"),
        "wine": Tabular("wine"),
        "adding_problem": AddingProblem(),
        "copy_problem": CopyProblem(),
        "two_spirals": TwoSpirals(),
        "moving_digits": MovingDigits(),
        "mnist": MNIST(),
        "fashion_mnist": FashionMNIST(),
        "cifar10": CIFAR10(),
        "california": California(),
        "cora": Cora(),
        "karate_club": KarateClub(),
        "rings": Rings(),
        "shakespeare": Text(),
        "reversed_words": ReversedWords(),
        "multi30k": Multi30k(),
        "rotten_tomatoes": RottenTomatoes(),
        "ring": Ring(),
        "overlaid_digits": OverlaidDigits(),
        "airline_passengers": Series("airline_passengers"),
        "sunspots": Series("sunspots"),
        "etth1": Series("etth1"),
    }
    if name in sources:
        return sources[name].open()
    if name.endswith(".npz"):
        return Tabular(name).open()
    raise DataError(f"there is no data set called {name!r}. {did_you_mean(name, sources)}")
