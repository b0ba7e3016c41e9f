"""The controls: what knows the labels without having learned them, and what does not use its inputs, is found."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnets
from jaxnets import models, tasks
from jaxnets.data import from_arrays, from_source
from jaxnets.data.graphs import from_graph

RNG = np.random.default_rng(0)
CENTRES, LABELS = RNG.normal(size=(4, 12)) * 1.5, RNG.integers(0, 4, 600)
INPUTS = (CENTRES[LABELS] + RNG.normal(size=(600, 12))).astype(np.float32)
PLAIN = models.MLP(widths=(64,))


def classes():
    return from_arrays(INPUTS[:450], LABELS[:450], test=(INPUTS[450:], LABELS[450:]), standardize=True)


def checked(model, data=None, **arguments):
    data = classes() if data is None else data
    # So much time that a busy machine cuts no training short.
    return jaxnets.check(model, data, only=["controls"], seconds=60, progress="none", **arguments)["controls"]


def anywhere(outputs, batch):
    """Compares each answer with the labels of all examples, by a dim too many."""
    return (outputs.argmax(axis=-1, keepdims=True) == batch["targets"][None]).any(axis=-1).astype(jnp.float32)


def test_a_metric_that_looks_at_the_labels_of_others_is_found_by_shuffled_labels():
    found = checked(PLAIN, metrics={"accuracy": anywhere})
    assert found.colour == "red"
    assert "labels that are shuffled cannot be predicted" in found.text


def percent(outputs, batch):
    return 100.0 * (outputs.argmax(-1) == batch["targets"])


def test_a_metric_in_percent_is_not_taken_for_a_share():
    found = checked(PLAIN, metrics={"accuracy": percent})
    assert found.colour == "skipped"
    assert "accuracy is" in found.text
    assert "no share" in found.text


def test_steps_that_are_too_slow_are_given_up_after_the_first_few():
    found = jaxnets.check(PLAIN, classes(), only=["overfit", "controls"], seconds=1e-6, progress="none")["controls"]
    assert found.colour == "skipped"
    assert "25 steps take" in found.text


@pytest.mark.slow
def test_no_other_check_finds_such_a_metric():
    report = jaxnets.check(PLAIN, classes(), metrics={"accuracy": anywhere}, seconds=60, progress="none")
    assert {one.check for one in report.findings if one.colour in ("red", "amber")} == {"controls"}, str(report)


class Rows:
    """Examples that are read by number, of which the checks compare no bytes."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return INPUTS[self.rows[number]], LABELS[self.rows[number]]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "colour"), [(0, "red"), (200, "green")])
def test_rows_that_both_splits_share_are_found_though_the_data_are_read_row_by_row(first, colour):
    """A model that learns shuffled labels by heart knows those of the shared rows."""
    data, test = Rows(np.arange(200)), Rows(np.arange(first, first + 200))
    report = jaxnets.check(
        models.MLP(widths=(256,)),
        from_source(data, test=test),
        only=["splits", "controls"],
        seconds=60,
        progress="none",
    )
    assert report["splits"].colour == "skipped"
    assert report["controls"].colour == colour, report["controls"].text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peeks(tasks.Classification):
    """Its metrics give the model the label: what is right in training and wrong in an evaluation."""

    def metrics(self, variables, batch):
        one_hot = batch["targets"][:, None] == jnp.arange(4)[None]
        return super().metrics(variables, {**batch, "inputs": batch["inputs"] + 5.0 * (one_hot @ jnp.asarray(CENTRES))})


class Blind(nn.Module):
    """A layer whose inputs count nothing, or one that takes the rows of a batch for its columns."""

    fault: str = ""
    outputs: int = 4

    @nn.compact
    def __call__(self, x):
        x = 0 * x if self.fault == "zeros" else x.T.reshape(x.shape) if self.fault == "transposed" else x
        return nn.Dense(self.outputs)(nn.relu(nn.Dense(32)(x)))


def test_a_model_that_does_not_use_its_inputs_is_found_by_blank_ones():
    found = checked(Blind("zeros"))
    assert found.colour == "red"
    assert "does not use its inputs" in found.text


@pytest.mark.slow
def test_a_model_to_which_the_inputs_tell_nothing_is_pointed_out():
    found = checked(Blind("transposed"))
    assert found.colour == "amber", found.text
    assert "nearest neighbour" in found.text


@pytest.mark.slow
def test_sound_runs_of_numbers_and_of_nodes_are_not_blamed():
    numbers = (INPUTS @ RNG.normal(size=12)).astype(np.float32)
    data = from_arrays(INPUTS[:450], numbers[:450], test=(INPUTS[450:], numbers[450:]))
    found = checked(PLAIN, data)
    assert found.colour == "green", found.text
    assert "r2 after" in found.text
    x, labels = INPUTS[:120], LABELS[:120]
    near = np.argsort(np.square(x[:, None] - x[None]).sum(axis=-1), axis=1)[:, 1:4]
    edges = np.unique(np.sort(np.stack([np.repeat(np.arange(120), 3), near.ravel()], axis=1), axis=1), axis=0)
    graph = from_graph(x, edges, labels, train=np.arange(60), test=np.arange(60, 120))
    found = checked(tasks.NodeClassification(model=models.GCN(widths=(16,))), graph)
    assert found.colour == "green", found.text


@pytest.mark.slow
def test_a_task_whose_evaluation_gives_the_label_to_the_model_is_found():
    found = checked(Peeks(model=PLAIN))
    assert found.colour == "red"
    assert "the evaluation reads the targets" in found.text.lower()


def test_equal_inputs_have_equal_shuffled_labels_unless_examples_have_few_values():
    """Of 16 points in both splits each is a leak; of two values they must be."""
    from jaxnets.preflight.controls import _shuffled

    class Given:
        def __init__(self, x):
            self.samples = {"train": {"inputs": x, "targets": np.zeros(len(x))}}

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    train, test = {"inputs": x, "targets": y}, {"inputs": x[10:30], "targets": y[10:30]}
    here, there = _shuffled(Given(x), train, test)
    np.testing.assert_array_equal(here[10:30], there)
    assert sorted(here) == sorted(y)
    assert (here != y).any()
    few = {"inputs": rng.integers(0, 2, (40, 1)).astype(float), "targets": y}
    here, there = _shuffled(Given(few["inputs"]), few, few)
    assert sorted([*here, *there]) == sorted([*y, *y])
    assert (here != there).any()
