"""Input data: named data sets, your own files and arrays, the order of examples, and the feeds to the device."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.data.arrays import from_arrays as from_arrays
    from jaxnets.data.augment.for_images import Augment as Augment
    from jaxnets.data.augment.graphs import GraphAugment as GraphAugment
    from jaxnets.data.augment.series import SeriesAugment as SeriesAugment
    from jaxnets.data.augment.tables import TableAugment as TableAugment
    from jaxnets.data.augment.tokens import TokenAugment as TokenAugment
    from jaxnets.data.augment.tokens import span_corruption as span_corruption
    from jaxnets.data.dataset import Dataset as Dataset
    from jaxnets.data.dataset import Source as Source
    from jaxnets.data.folder import from_folder as from_folder
    from jaxnets.data.graphs import from_graph as from_graph
    from jaxnets.data.graphs import from_graphs as from_graphs
    from jaxnets.data.graphs import pad_graphs as pad_graphs
    from jaxnets.data.indexed import from_source as from_source
    from jaxnets.data.sources.balanced import Balanced as Balanced
    from jaxnets.data.sources.balanced import balanced as balanced
    from jaxnets.data.sources.chat import Chat as Chat
    from jaxnets.data.sources.few_labels import FewLabels as FewLabels
    from jaxnets.data.sources.few_labels import few_labels as few_labels
    from jaxnets.data.sources.few_labels import with_unlabelled as with_unlabelled
    from jaxnets.data.sources.graph_sets import Cora as Cora
    from jaxnets.data.sources.graph_sets import KarateClub as KarateClub
    from jaxnets.data.sources.graph_sets import Rings as Rings
    from jaxnets.data.sources.image_folder import ImageFolder as ImageFolder
    from jaxnets.data.sources.images import CIFAR10 as CIFAR10
    from jaxnets.data.sources.images import MNIST as MNIST
    from jaxnets.data.sources.images import Digits as Digits
    from jaxnets.data.sources.images import FashionMNIST as FashionMNIST
    from jaxnets.data.sources.memory import InMemory as InMemory
    from jaxnets.data.sources.moving_digits import MovingDigits as MovingDigits
    from jaxnets.data.sources.named import load as load
    from jaxnets.data.sources.overlaid_digits import OverlaidDigits as OverlaidDigits
    from jaxnets.data.sources.pairs import Multi30k as Multi30k
    from jaxnets.data.sources.pairs import ReversedWords as ReversedWords
    from jaxnets.data.sources.preferences import Preferences as Preferences
    from jaxnets.data.sources.ranked import Ranked as Ranked
    from jaxnets.data.sources.ranked import with_difficulty as with_difficulty
    from jaxnets.data.sources.ranked import with_targets as with_targets
    from jaxnets.data.sources.ring import Ring as Ring
    from jaxnets.data.sources.sentences import RottenTomatoes as RottenTomatoes
    from jaxnets.data.sources.series import Series as Series
    from jaxnets.data.sources.sums import Sums as Sums
    from jaxnets.data.sources.synthetic import AddingProblem as AddingProblem
    from jaxnets.data.sources.synthetic import CopyProblem as CopyProblem
    from jaxnets.data.sources.synthetic import LogicGate as LogicGate
    from jaxnets.data.sources.synthetic import TwoSpirals as TwoSpirals
    from jaxnets.data.sources.tables import California as California
    from jaxnets.data.sources.tables import Tabular as Tabular
    from jaxnets.data.sources.text import GPT2Tokens as GPT2Tokens
    from jaxnets.data.sources.text import Text as Text
    from jaxnets.data.sources.text import TokenFile as TokenFile
    from jaxnets.data.sources.toys import Disc as Disc
    from jaxnets.data.sources.toys import Glyphs as Glyphs
    from jaxnets.data.sources.toys import HalfMoons as HalfMoons
    from jaxnets.data.sources.toys import Teacher as Teacher
    from jaxnets.data.text.tokenizers import open_tokenizer as open_tokenizer
    from jaxnets.data.validation import Validation as Validation

# The file of each name; see `jaxnets.core.lazy`.
FILES = {
    "with_targets": "sources.ranked",
    "with_difficulty": "sources.ranked",
    "Ranked": "sources.ranked",
    "balanced": "sources.balanced",
    "Balanced": "sources.balanced",
    "with_unlabelled": "sources.few_labels",
    "few_labels": "sources.few_labels",
    "FewLabels": "sources.few_labels",
    "Preferences": "sources.preferences",
    "Sums": "sources.sums",
    "Validation": "validation",
    "Augment": "augment.for_images",
    "GraphAugment": "augment.graphs",
    "SeriesAugment": "augment.series",
    "TableAugment": "augment.tables",
    "TokenAugment": "augment.tokens",
    "span_corruption": "augment.tokens",
    "Dataset": "dataset",
    "Source": "dataset",
    "from_arrays": "arrays",
    "Chat": "sources.chat",
    "Cora": "sources.graph_sets",
    "KarateClub": "sources.graph_sets",
    "Rings": "sources.graph_sets",
    "from_folder": "folder",
    "from_graph": "graphs",
    "from_graphs": "graphs",
    "pad_graphs": "graphs",
    "from_source": "indexed",
    "ImageFolder": "sources.image_folder",
    "CIFAR10": "sources.images",
    "MNIST": "sources.images",
    "Digits": "sources.images",
    "FashionMNIST": "sources.images",
    "InMemory": "sources.memory",
    "MovingDigits": "sources.moving_digits",
    "load": "sources.named",
    "Multi30k": "sources.pairs",
    "ReversedWords": "sources.pairs",
    "Ring": "sources.ring",
    "RottenTomatoes": "sources.sentences",
    "OverlaidDigits": "sources.overlaid_digits",
    "Series": "sources.series",
    "AddingProblem": "sources.synthetic",
    "LogicGate": "sources.synthetic",
    "TwoSpirals": "sources.synthetic",
    "CopyProblem": "sources.synthetic",
    "California": "sources.tables",
    "Tabular": "sources.tables",
    "Disc": "sources.toys",
    "Glyphs": "sources.toys",
    "HalfMoons": "sources.toys",
    "Teacher": "sources.toys",
    "GPT2Tokens": "sources.text",
    "Text": "sources.text",
    "TokenFile": "sources.text",
    "open_tokenizer": "text.tokenizers",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "CIFAR10",
    "MNIST",
    "AddingProblem",
    "Augment",
    "Balanced",
    "California",
    "Chat",
    "CopyProblem",
    "Cora",
    "Dataset",
    "Digits",
    "Disc",
    "FashionMNIST",
    "FewLabels",
    "GPT2Tokens",
    "Glyphs",
    "GraphAugment",
    "HalfMoons",
    "ImageFolder",
    "InMemory",
    "KarateClub",
    "LogicGate",
    "MovingDigits",
    "Multi30k",
    "OverlaidDigits",
    "Preferences",
    "Ranked",
    "ReversedWords",
    "Ring",
    "Rings",
    "RottenTomatoes",
    "Series",
    "SeriesAugment",
    "Source",
    "Sums",
    "TableAugment",
    "Tabular",
    "Teacher",
    "Text",
    "TokenAugment",
    "TokenFile",
    "TwoSpirals",
    "Validation",
    "balanced",
    "few_labels",
    "from_arrays",
    "from_folder",
    "from_graph",
    "from_graphs",
    "from_source",
    "load",
    "open_tokenizer",
    "pad_graphs",
    "span_corruption",
    "with_difficulty",
    "with_targets",
    "with_unlabelled",
]
