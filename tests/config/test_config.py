"""Configurations: the shipped ones, data and back, mistakes."""

import dataclasses
import json
import typing

import flax.linen as nn
import numpy as np
import pytest
from conftest import ROOT, replace
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import config, models
from jaxnets.config.check import check_types
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import differences, digest, from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import annotations
from jaxnets.core.types import Tokens
from jaxnets.data import (
    AddingProblem,
    CopyProblem,
    Dataset,
    Digits,
    GPT2Tokens,
    KarateClub,
    MovingDigits,
    OverlaidDigits,
    Rings,
    Series,
    Text,
)
from jaxnets.data.dataset import TokenIds
from jaxnets.models import CNN, MLP
from jaxnets.ops.tokens import SPECIAL
from jaxnets.optim import SGD, AdamW
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification, Regression

SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.smoke
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_documents_itself_and_round_trips(name):
    loaded = config.load(name)
    text = (ROOT / "configs" / f"{name}.py").read_text()
    assert f"jaxnets train {name}" in text
    assert len(text.splitlines()) <= 45
    said = text.split('"""')[1]
    assert loaded.expected.score in said if loaded.expected else "not run yet" in said.lower()
    data = json.loads(json.dumps(to_data(loaded.experiment)))
    assert from_data(data) == loaded.experiment
    assert differences(data, to_data(loaded.experiment)) == []


def test_a_field_at_what_it_stood_for_before_it_was_there_renames_no_run():
    def name(model, optimizer):
        return digest(Experiment(task=Classification(model=model), data=Digits(), optimizer=optimizer, steps=1))

    # As they were before `moments` and the `remat` of these models.
    assert name(models.ViT(), AdamW()) == "7a584b05"
    assert name(models.CoAtNet(), SGD()) == "9d5ae336"
    assert name(models.ViT(remat="blocks"), AdamW()) != "7a584b05"
    assert name(models.ViT(), AdamW(moments="8-bit")) != "7a584b05"


SHAPES = {
    "digits_cnn": (8, 8, 1),
    "cifar10_resnet": (32, 32, 3),
    "cifar10_resnet9": (32, 32, 3),
    "cifar10_coatnet": (32, 32, 3),
    "cifar10_vit": (32, 32, 3),
    "california_mlp": (16,),
    "tabular": (4,),
    "perceptron": (4,),
    "iris_adaline": (4,),
    "digits_rcnn": (8, 8, 1),
    "ring_gan": (2,),
}


def made(name, folder):
    """A small data set of the kind that a configuration needs, where plain arrays will not do; None elsewhere."""
    (folder / "text.txt").write_text("to be or not to be, that is the question. " * 100)
    sources = {
        "cora_gcn": KarateClub(), "cora_gat": KarateClub(), "cora_sage": KarateClub(), "copy_gru": CopyProblem(),
        "rings_gin": Rings(), "adding_gru": AddingProblem(),
        "moving_digits": MovingDigits(), "shakespeare_char": Text(str(folder / "text.txt")),
        "gpt2_124m": GPT2Tokens("books", length=1024), "llama_1b": GPT2Tokens("books", length=2048),
        **dict.fromkeys(("llama_8b", "llama_70b", "mixtral_8x7b"), GPT2Tokens("books", length=4096)),
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


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_assembles_for_data_of_its_shape(name, one_device, tmp_path):
    experiment = config.load(name).experiment
    dataset = made(name, tmp_path) or arrays(name)
    parts = assemble(experiment, dataset, mesh=one_device)
    assert parts.parameters > 0
    assert parts.program.capacity >= 1


def arrays(name):
    """Random examples in the shape that a configuration's data have."""
    shape, rng = SHAPES.get(name, (28, 28, 1)), np.random.default_rng(0)
    x = rng.uniform(size=(600, *shape)).astype(np.float32)  # in the range of every scale of pixels
    numbers = name == "california_mlp"
    classes = 2 if name in ("perceptron", "iris_adaline") else 10
    y = rng.normal(size=600).astype(np.float32) if numbers else (np.arange(600) % classes).astype(np.int32)
    names = () if numbers else tuple(map(str, range(classes)))
    return Dataset(name, {"inputs": x, "targets": y}, {"inputs": x, "targets": y}, class_names=names)


@given(
    widths=st.lists(st.integers(1, 99), max_size=4),
    rate=st.floats(1e-6, 10),
    clip=st.none() | st.floats(0.1, 5),
    steps=st.integers(1, 10**6),
    dropout=st.floats(0, 0.9),
)
@settings(max_examples=40, deadline=None)
def test_any_experiment_survives_being_written_down(widths, rate, clip, steps, dropout):
    experiment = Experiment(
        task=Classification(model=MLP(widths=tuple(widths), dropout=dropout)),
        data=Digits(),
        optimizer=SGD(learning_rate=rate, clip_norm=clip),
        steps=steps,
    )
    assert from_data(json.loads(json.dumps(to_data(experiment)))) == experiment


GOOD = to_data(Experiment(task=Classification(model=CNN()), data=Digits()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "os.system"}, "'os.system', which is not built in"),
        ({"type": "Experimnt"}, "Did you mean 'Experiment'"),
        ({"type": None}, "not built in"),
        ({"stepz": 3}, "no field 'stepz'. Did you mean 'steps'"),
        ({"steps": "many"}, r"Experiment.steps is int, got 'many' \(str\)"),
        ({"steps": True}, "Experiment.steps is int, got True"),
        ({"steps": 0}, "steps is at least 1, got 0"),
        ({"placement": "disk"}, "Experiment.placement is one of 'auto', 'device', 'host', got 'disk'"),
        ({"optimizer": {"type": "AdamW", "learning_rate": "fast"}}, "AdamW.learning_rate is float, got 'fast'"),
        ({"task": {"type": "Classification", "model": {"type": "CNN", "features": "wide"}}}, "CNN.features is tuple"),
        (
            {"task": {"type": "Classification", "model": {"type": "Popen", "args": "id"}}},
            "'Popen', which is not built in",
        ),
        ({"task": {"type": "Classification"}}, "missing .*'model'"),
    ],
)
def test_a_bad_saved_configuration_is_named_and_runs_nothing(change, message):
    with pytest.raises(UsageError, match=message):
        from_data({**GOOD, **change})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["type", "task", "model", "steps", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_json_either_reads_or_is_a_usage_error(data):
    try:
        from_data(data)
    except (UsageError, ValueError) as error:
        assert str(error)


def test_wrong_values_fail_where_they_are_written():
    with pytest.raises(UsageError, match="Experiment.batch_size is int, got 1.5"):
        replace(from_data(GOOD), batch_size=1.5)
    with pytest.raises(ValueError, match="learning_rate is positive, got -1"):
        AdamW(learning_rate=-1)
    with pytest.raises(ValueError, match="label_smoothing is a share"):
        Classification(model=CNN(), label_smoothing=1.5)
    check_types(CNN(features=(1, 2)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "no function config"),
        ("def config(): return 3", "returned int, expected an Experiment"),
        ("def config(:", "line 1"),
        (
            "from jaxnets.optim import AdamW\ndef config(): return AdamW(learning_rate=0)",
            "learning_rate is positive, got 0",
        ),
        ("from jaxnets.optim import AdamW\ndef config(): return AdamW(lr=1)", "unexpected keyword argument 'lr'"),
    ],
)
def test_a_bad_configuration_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        config.load(str(path))


def test_a_name_that_is_not_there_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"no configuration called 'mnist_cn'. Did you mean 'mnist_cnn'"):
        config.load("mnist_cn")
    with pytest.raises(UsageError, match=r"no configuration file 'x/y.py'"):
        config.load("x/y.py")


def test_overrides_reach_the_module_as_a_field():
    experiment = from_data(GOOD)
    task = dataclasses.replace(experiment.task, model=experiment.task.model.clone(features=(8, 8)))
    assert differences(GOOD, to_data(replace(experiment, task=task))) == [
        "task.model.features: [32, 64] there, [8, 8] here"
    ]


CHOICES = [
    (cls, name)
    for cls in (getattr(models, name) for name in models.__all__)
    if isinstance(cls, type) and issubclass(cls, nn.Module)
    for name, hint in annotations(cls).items()
    if typing.get_origin(hint) is typing.Literal
]


@pytest.mark.parametrize(("model", "field"), CHOICES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_misspelt_choice_is_not_another_choice(model, field):
    first = typing.get_args(annotations(model)[field])[0]
    wrong = f"{first}s" if isinstance(first, str) else -7
    with pytest.raises(ValueError, match=rf"{model.__name__}\.{field} is one of .*{first}.*, got .*{wrong}"):
        model(**{field: wrong})


def test_what_is_within_an_experiment_is_checked_as_well():
    def holding(**fields):
        return Experiment(task=Regression(model=MLP(), **fields), data=Digits())

    with pytest.raises(UsageError, match=r"Regression\.error is one of 'squared', .*, got 'absolute'"):
        holding(error="absolute")
    with pytest.raises(UsageError, match=r"CNN\.features is tuple\[int, \.\.\.\], got \(3\.5,\)"):
        Experiment(task=Classification(model=CNN(features=(3.5,))), data=Digits())
    # What numpy computed is a number, and what is written in brackets a tuple.
    given = Experiment(task=Classification(model=MLP(widths=[np.int64(3)], dropout=np.float32(0.5))), data=Digits())
    model = to_data(given)["task"]["model"]
    assert (model["widths"], model["dropout"]) == ([3], 0.5)
