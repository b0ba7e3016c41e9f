"""Named sets of graphs: Cora, a karate club, rings made from a seed."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from jaxnets.core.download import read_arrays
from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source
from jaxnets.data.graphs import from_graph, from_graphs
from jaxnets.data.sources.planetoid import cora_arrays

ASSETS = Path(__file__).parents[1] / "assets"
CORA_CLASSES = (
    "theory",
    "reinforcement learning",
    "genetic algorithms",
    "neural networks",
    "probabilistic methods",
    "case based",
    "rule learning",
)


@dataclasses.dataclass(frozen=True)
class Cora(Source):
    """2,708 papers on machine learning and their 5,278 citations, 1,433 words each, 7 classes (Sen et al. 2008).

    The standard split (Yang et al. 2016): training labels of 20 papers per class, 500 papers for validation, 1,000 for the
    test.
    """

    measure: Literal["test", "validation"] = "test"
    """Which papers the test split holds; with "validation", those of the test are not used."""
    copies: int = 1
    """Copies of the graph in the training split. On D devices set copies and batch_size to D, so that each device has one
    graph with its own dropout."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise DataError(f"cora: copies is at least 1, got {self.copies}")

    def open(self) -> Dataset:
        """One graph; the features are word counts divided by their sum per paper, float32."""
        arrays = cora_arrays()
        nodes = np.zeros((int(arrays["num_nodes"]), int(arrays["num_features"])), np.float32)
        nodes[arrays["feat_row"], arrays["feat_col"]] = arrays["feat_val"]
        nodes /= np.maximum(nodes.sum(axis=1, keepdims=True), 1)
        dataset = from_graph(
            nodes,
            arrays["edges"],
            arrays["labels"].astype(np.int32),
            train=arrays["train_idx"],
            test=arrays["test_idx" if self.measure == "test" else "val_idx"],
            validation=arrays["val_idx"] if self.measure == "test" else None,
            name="cora",
            class_names=CORA_CLASSES,
        )
        train = {key: np.repeat(array, self.copies, axis=0) for key, array in dataset.train.items()}
        source = "Cora (Sen et al. 2008) as split by Planetoid, https://github.com/kimiyoung/planetoid"
        return dataclasses.replace(dataset, train=train, source=source)


@dataclasses.dataclass(frozen=True)
class KarateClub(Source):
    """34 members of a karate club and their 78 friendships (Zachary 1977); the class is the leader that each joins. Bundled.

    The training labels are those of the two leaders; the test has the other 32. Features are the node numbers, one-hot.
    """

    def open(self) -> Dataset:
        """One graph, features `[34, 34]`."""
        arrays = read_arrays(ASSETS / "karate_club.npz", ("edges", "labels"))
        dataset = from_graph(
            np.eye(34, dtype=np.float32),
            arrays["edges"],
            arrays["labels"].astype(np.int32),
            train=[0, 33],
            test=np.arange(1, 33),
            name="karate club",
            class_names=("the instructor", "the officer"),
        )
        return dataclasses.replace(dataset, source="W. W. Zachary (1977), as in networkx")


@dataclasses.dataclass(frozen=True)
class Rings(Source):
    """Synthetic: rings of nodes with one chord, which closes a triangle (class 1) or a longer cycle (class 0).

    The node feature is constant and both classes have the same degrees, so a network must see two edges away.
    """

    graphs: int = 500
    """Number of graphs, half of each class."""
    least: int = 6
    """Nodes in the smallest ring, at least 6."""
    most: int = 14
    """Nodes in the largest ring."""
    seed: int = 0
    """Seed of the sizes, the chords and the node numbering."""

    def __post_init__(self) -> None:
        if not 6 <= self.least <= self.most or self.graphs < 10:
            raise DataError(
                f"rings: 6 <= least <= most and at least 10 graphs, got least={self.least}, most={self.most}, "
                f"graphs={self.graphs}"
            )

    def open(self) -> Dataset:
        """Graphs of different sizes, padded to the largest; one constant feature."""
        rng = np.random.default_rng(self.seed)
        graphs, targets = [], np.arange(self.graphs) % 2
        for closes_triangle in targets:
            n = int(rng.integers(self.least, self.most + 1))
            step = 2 if closes_triangle else int(rng.integers(3, n // 2 + 1))
            ring = np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1)
            edges = np.concatenate([ring, [[0, step]]])
            graphs.append((np.ones((n, 1), np.float32), rng.permutation(n)[edges]))
        dataset = from_graphs(graphs, targets, name="rings", class_names=("longer cycle", "triangle"), seed=self.seed)
        return dataclasses.replace(dataset, source="made by jaxnets.data.Rings")
