"""Distillation by its equation: the gradient of section 2, the teacher's entropy, a teacher that never changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits

import jaxnets
from jaxnets import Initial
from jaxnets.core.errors import DataError, JaxnetsError
from jaxnets.models import MLP
from jaxnets.optim import Adam
from jaxnets.tasks import Distillation
from jaxnets.tasks.distillation import distillation_loss

STUDENT = jnp.array([[1.0, -2.0, 0.3], [0.5, 0.0, 4.0]])
TEACHER = jnp.array([[2.0, -1.0, 0.0], [9.0, 0.1, -3.0]])
# The teacher's weights go to its collection; those of the student are drawn.
ROAD = {"renames": (("^", "teacher/"),), "fresh": ("(?!teacher/).*",)}


def softmax(z):
    z = np.exp(np.asarray(z, np.float64))
    return z / z.sum(axis=-1, keepdims=True)


@pytest.mark.smoke
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_that_of_the_paper(temperature):
    gradient = jax.grad(lambda s: distillation_loss(s, TEACHER, temperature=temperature).sum())(STUDENT)
    # Equation 2: dC/dz = (q - p) / T, times T^2.
    wanted = temperature * (softmax(STUDENT / temperature) - softmax(TEACHER / temperature))
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)
    other = jax.grad(lambda t: distillation_loss(STUDENT, t, temperature=temperature).sum())(TEACHER)
    np.testing.assert_array_equal(other, 0)


def test_at_high_temperature_it_is_the_squared_difference_of_logits():
    # Equation 4: with logits of mean 0 the gradient tends to (z - v) / N.
    student, teacher = (a - a.mean(axis=1, keepdims=True) for a in (STUDENT, TEACHER))
    gradient = jax.grad(lambda s: distillation_loss(s, teacher, temperature=1e3).sum())(student)
    np.testing.assert_allclose(gradient, (student - teacher) / 3, atol=5e-2)


def test_a_student_like_its_teacher_has_the_teachers_entropy():
    p = softmax(TEACHER / 2)
    entropy = -(p * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(distillation_loss(TEACHER, TEACHER, temperature=2.0), 4 * entropy, rtol=1e-4)
    assert (distillation_loss(STUDENT, TEACHER, temperature=2.0) > 4 * entropy).all()


@pytest.mark.slow
def test_a_small_student_learns_from_a_run_and_the_teacher_stays(blobs, tmp_path):
    options = {"steps": 60, "batch_size": 24, "optimizer": Adam(learning_rate=0.02), "progress": "none"}
    teacher = jaxnets.fit(MLP(widths=(32,)), blobs, **options)
    task = Distillation(model=MLP(widths=(4,)), teacher=teacher.parts.task.model, temperature=2.0)
    begin = Initial(teacher.variables, **ROAD)
    run = jaxnets.fit(task, blobs, initial=begin, run_dir=tmp_path / "run", **options)
    assert_same_bits(run.state.model_state["teacher"], teacher.variables)
    scores = run.evaluate()
    assert scores["agreement"] > 0.85
    assert scores["teacher_accuracy"] == pytest.approx(teacher.evaluate()["accuracy"])
    again = jaxnets.open_run(tmp_path / "run", dataset=blobs)
    assert again.evaluate() == scores
    # The whole loss, by hand.
    batch = {"inputs": blobs.prepare.on_device(jnp.asarray(blobs.test["inputs"])), "targets": blobs.test["targets"]}
    batch["mask"] = jnp.ones(len(batch["targets"]))
    bound = run.parts.task
    said, taught = bound.outputs(run.variables, batch), teacher.parts.task.outputs(teacher.variables, batch)
    p, q = softmax(said), softmax(np.asarray(taught) / 2)
    label = -np.log(p[np.arange(len(p)), batch["targets"]])
    taught_term = -4 * (q * np.log(softmax(np.asarray(said) / 2))).sum(axis=1)
    got = bound.loss(run.variables, batch, jax.random.key(0), False)[0].value
    np.testing.assert_allclose(got, (0.1 * label + 0.9 * taught_term).mean(), rtol=1e-5)


def test_a_teacher_without_weights_stops_the_run(blobs):
    task = Distillation(model=MLP(widths=(4,)), teacher=MLP(widths=(4,)))
    with pytest.raises(JaxnetsError, match="not finite"):
        jaxnets.fit(task, blobs, steps=2, progress="none")


def test_mistakes_are_named(blobs):
    with pytest.raises(ValueError, match="temperature is above 0, got 0"):
        Distillation(model=MLP(), teacher=MLP(), temperature=0.0)
    with pytest.raises(ValueError, match=r"share is in \[0, 1\], got 2"):
        Distillation(model=MLP(), teacher=MLP(), share=2.0)
    task = Distillation(model=MLP(), teacher=MLP(outputs=7)).bind(blobs.card)
    batch = {"inputs": jnp.zeros((2, 12)), "targets": jnp.zeros(2, int), "mask": jnp.ones(2)}
    variables = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
    with pytest.raises(DataError, match="the teacher"):
        task.check_outputs(variables, batch, blobs.card)
