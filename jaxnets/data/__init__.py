"""What is read: named data sets, files and arrays of your own; the order they come in; how they reach the device."""

from typing import TYPE_CHECKING

from jaxnets.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.data.arrays import from_arrays as from_arrays
    from jaxnets.data.augment import Augment as Augment
    from jaxnets.data.dataset import Dataset as Dataset
    from jaxnets.data.dataset import Source as Source
    from jaxnets.data.graph_sets import Cora as Cora
    from jaxnets.data.graph_sets import KarateClub as KarateClub
    from jaxnets.data.graph_sets import Rings as Rings
    from jaxnets.data.graphs import from_graph as from_graph
    from jaxnets.data.graphs import from_graphs as from_graphs
    from jaxnets.data.graphs import pad_graphs as pad_graphs
    from jaxnets.data.images import CIFAR10 as CIFAR10
    from jaxnets.data.images import MNIST as MNIST
    from jaxnets.data.images import Digits as Digits
    from jaxnets.data.images import FashionMNIST as FashionMNIST
    from jaxnets.data.memory import InMemory as InMemory
    from jaxnets.data.moving_digits import MovingDigits as MovingDigits
    from jaxnets.data.named import load as load
    from jaxnets.data.overlaid_digits import OverlaidDigits as OverlaidDigits
    from jaxnets.data.pairs import Multi30k as Multi30k
    from jaxnets.data.pairs import ReversedWords as ReversedWords
    from jaxnets.data.ring import Ring as Ring
    from jaxnets.data.sentences import RottenTomatoes as RottenTomatoes
    from jaxnets.data.series import Series as Series
    from jaxnets.data.synthetic import AddingProblem as AddingProblem
    from jaxnets.data.synthetic import CopyProblem as CopyProblem
    from jaxnets.data.synthetic import LogicGate as LogicGate
    from jaxnets.data.synthetic import TwoSpirals as TwoSpirals
    from jaxnets.data.tables import California as California
    from jaxnets.data.tables import Tabular as Tabular
    from jaxnets.data.text import GPT2Tokens as GPT2Tokens
    from jaxnets.data.text import Text as Text
    from jaxnets.data.text import TokenFile as TokenFile
    from jaxnets.data.tokenizers import open_tokenizer as open_tokenizer

# The file of each name; see `jaxnets.lazy`.
FILES = {
    "Augment": "augment",
    "Dataset": "dataset",
    "Source": "dataset",
    "from_arrays": "arrays",
    "Cora": "graph_sets",
    "KarateClub": "graph_sets",
    "Rings": "graph_sets",
    "from_graph": "graphs",
    "from_graphs": "graphs",
    "pad_graphs": "graphs",
    "CIFAR10": "images",
    "MNIST": "images",
    "Digits": "images",
    "FashionMNIST": "images",
    "InMemory": "memory",
    "MovingDigits": "moving_digits",
    "load": "named",
    "Multi30k": "pairs",
    "ReversedWords": "pairs",
    "Ring": "ring",
    "RottenTomatoes": "sentences",
    "OverlaidDigits": "overlaid_digits",
    "Series": "series",
    "AddingProblem": "synthetic",
    "LogicGate": "synthetic",
    "TwoSpirals": "synthetic",
    "CopyProblem": "synthetic",
    "California": "tables",
    "Tabular": "tables",
    "GPT2Tokens": "text",
    "Text": "text",
    "TokenFile": "text",
    "open_tokenizer": "tokenizers",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "CIFAR10",
    "MNIST",
    "AddingProblem",
    "Augment",
    "California",
    "CopyProblem",
    "Cora",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "GPT2Tokens",
    "InMemory",
    "KarateClub",
    "LogicGate",
    "MovingDigits",
    "Multi30k",
    "OverlaidDigits",
    "ReversedWords",
    "Ring",
    "Rings",
    "RottenTomatoes",
    "Series",
    "Source",
    "Tabular",
    "Text",
    "TokenFile",
    "TwoSpirals",
    "from_arrays",
    "from_graph",
    "from_graphs",
    "load",
    "open_tokenizer",
    "pad_graphs",
]
