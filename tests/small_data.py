"""Small data of the kind and shape that each shipped configuration trains on."""

import numpy as np

from jaxnets.core.types import Tokens
from jaxnets.data import (
    AddingProblem,
    CopyProblem,
    Dataset,
    Digits,
    FewLabels,
    GPT2Tokens,
    ImageFolder,
    KarateClub,
    MovingDigits,
    OverlaidDigits,
    Rings,
    Series,
    Sums,
    Text,
)
from jaxnets.data.dataset import TokenIds
from jaxnets.ops.tokens import SPECIAL

SHAPES = {
    "digits_cnn": (8, 8, 1),
    **dict.fromkeys(("digits_simclr", "digits_byol"), (8, 8, 1)),
    **dict.fromkeys(("digits_resnet9", "digits_airbench", "digits_torchvision"), (8, 8, 1)),
    "cifar10_resnet": (32, 32, 3),
    "cifar10_resnet9": (32, 32, 3),
    "cifar10_airbench": (32, 32, 3),
    "cifar10_coatnet": (32, 32, 3),
    "cifar10_vit": (32, 32, 3),
    "california_mlp": (16,),
    "tabular": (4,),
    "perceptron": (4,),
    "iris_adaline": (4,),
    "digits_rcnn": (8, 8, 1),
    "ring_gan": (2,),
}


def small_data(name, folder):
    """A small data set for a shipped configuration; `folder` is for the files that it needs."""
    return made(name, folder) or arrays(name)


def made(name, folder):
    """A small data set of the kind that a configuration needs, where plain arrays will not do; None elsewhere."""
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    sources = {
        "cora_gcn": KarateClub(), "cora_gat": KarateClub(), "cora_sage": KarateClub(), "copy_gru": CopyProblem(),
        "rings_gin": Rings(), "adding_gru": AddingProblem(),
        "sums_grpo": Sums(), "digits_fixmatch": FewLabels(Digits()),
        "moving_digits": MovingDigits(), "shakespeare_char": Text(str(folder / "text.txt")),
        **dict.fromkeys(("gpt2_124m", "gpt2_xl"), GPT2Tokens("books", length=1024)), "llama_1b": GPT2Tokens("books", length=2048),
        **dict.fromkeys(("llama_8b", "llama_70b", "mixtral_8x7b"), GPT2Tokens("books", length=4096)),
        **dict.fromkeys(("resnet50", "resnet50_torchvision", "vit_l16"), ImageFolder()),
        "overlaid_digits": OverlaidDigits(train=600, test=20), "etth1_forecast": Series("sunspots", history=96, horizon=24),
    }  # fmt: skip
    if name in ("reverse_words", "multi30k_translation", "rotten_tomatoes"):
        return sequences(name, labelled=name == "rotten_tomatoes")
    name = "shakespeare_char" if name.startswith("shakespeare") else name
    return sources[name].outline() if name in sources else None


def sequences(name, *, labelled):
    """Random words with a label each, or with other words."""
    ids, names = np.random.default_rng(0).integers(4, 40, (600, 12), dtype=np.int32), (*SPECIAL, *map(str, range(36)))
    split = {"inputs": ids, "targets": (np.arange(600) % 2).astype(np.int32) if labelled else ids[:, ::-1]}
    classes, kind = (("no", "yes"), "") if labelled else (names, "sequence")
    tokens = Tokens(names, "words")
    return Dataset(name, split, split, classes, target_kind=kind, prepare=TokenIds(), tokens=tokens)


def arrays(name):
    """Random examples in the shape that a configuration's data have."""
    shape, rng = SHAPES.get(name, (28, 28, 1)), np.random.default_rng(0)
    count = 1024 if name == "cifar10_airbench" else 600  # at least a batch
    x = rng.uniform(size=(count, *shape)).astype(np.float32)  # in the range of every scale of pixels
    numbers = name == "california_mlp"
    classes = 2 if name in ("perceptron", "iris_adaline") else 10
    y = rng.normal(size=count).astype(np.float32) if numbers else (np.arange(count) % classes).astype(np.int32)
    names = () if numbers else tuple(map(str, range(classes)))
    return Dataset(name, {"inputs": x, "targets": y}, {"inputs": x, "targets": y}, class_names=names)
