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
from small_data import small_data

from jaxnets import config, models
from jaxnets.config.check import check_types
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import differences, digest, from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import annotations
from jaxnets.data import (
    Digits,
)
from jaxnets.models import CNN, MLP
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


def test_a_new_field_at_its_default_does_not_rename_a_run():
    def name(model, optimizer):
        return digest(Experiment(task=Classification(model=model), data=Digits(), optimizer=optimizer, steps=1))

    # As they were before `moments` and the `remat` of these models.
    assert name(models.ViT(), AdamW()) == "7a584b05"
    assert name(models.CoAtNet(), SGD()) == "9d5ae336"
    assert name(models.ViT(remat="blocks"), AdamW()) != "7a584b05"
    assert name(models.ViT(), AdamW(moments="8-bit")) != "7a584b05"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_assembles_for_data_of_its_shape(name, one_device, tmp_path):
    experiment = config.load(name).experiment
    dataset = small_data(name, tmp_path)
    parts = assemble(experiment, dataset, mesh=one_device)
    assert parts.parameters > 0
    assert parts.program.capacity >= 1


@given(
    widths=st.lists(st.integers(1, 99), max_size=4),
    rate=st.floats(1e-6, 10),
    clip=st.none() | st.floats(0.1, 5),
    steps=st.integers(1, 10**6),
    dropout=st.floats(0, 0.9),
)
@settings(max_examples=40, deadline=None)
def test_any_experiment_is_equal_after_saving_and_loading(widths, rate, clip, steps, dropout):
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
        ({"steps": "many"}, r"or tokens .2M tok.; got .many."),
        ({"steps": True}, "Experiment.steps is int \\| str, got True"),
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
def test_a_bad_saved_configuration_is_named_and_executes_no_code(change, message):
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


def test_an_unknown_name_gives_an_error_with_the_nearest_name():
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


def test_nested_fields_of_an_experiment_are_checked_too():
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
