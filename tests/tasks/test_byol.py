"""BYOL: its loss against numpy, what has a gradient, and how the target follows."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same_bits, leaves, replace

from jaxnets.config import Experiment
from jaxnets.core.errors import DataError
from jaxnets.data import InMemory, from_arrays
from jaxnets.models import MLP
from jaxnets.optim import Adam
from jaxnets.runs.build import assemble
from jaxnets.runs.open import open_run
from jaxnets.runs.train import train
from jaxnets.tasks import BYOL, Views
from jaxnets.tasks.byol import byol_loss, follower_momentum
from jaxnets.tasks.embedding import two_views

PLAIN = BYOL(
    model=MLP(widths=(), outputs=4),
    projector=MLP(widths=(), outputs=5),
    predictor=MLP(widths=(), outputs=5),
    views=Views(noise=1.0),
)
SHOWN = 6  # rows that count in a masked batch


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return from_arrays(rng.normal(size=(96, 7)).astype(np.float32), rng.integers(0, 3, 96), test=None)


@pytest.fixture(scope="module")
def short(vectors):
    """A run with batch norm, dropout and schedules: everything that depends on the step."""
    task = BYOL(model=MLP(widths=(8,), dropout=0.2), embedding=4, projector=MLP(widths=(8,), outputs=5, norm="batch"))
    return Experiment(
        task=task, data=InMemory("vectors"), optimizer=Adam(0.01), steps=12, batch_size=16, save_every=4, log_every=4
    )


@pytest.fixture(scope="module")
def batch():
    x = np.random.default_rng(1).normal(size=(8, 7)).astype(np.float32)
    return {"inputs": jnp.asarray(x), "mask": (jnp.arange(8) < SHOWN) * 1.0, "index": jnp.arange(8)}


@pytest.fixture(scope="module")
def variables(batch):
    """With a target that is not the online network, so that the two cannot be taken for each other."""
    made = jax.jit(PLAIN.init)(jax.random.key(0), batch)
    return {**made, "target": jax.tree.map(lambda a: a + 0.5, made["target"])}


def dense(tree, x):
    """A dense layer in float64."""
    layer = tree["output"]
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def by_equation(q, z):
    """Equation 2 of Grill et al. 2020: the squared distance of the normalised vectors."""
    q, z = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (q, z))
    return ((q - z) ** 2).sum(axis=-1)


@pytest.mark.smoke
def test_the_loss_is_the_equation_both_ways_over_the_rows_that_count(variables, batch):
    key = jax.random.key(1)
    seen = jax.jit(lambda: two_views(PLAIN.views, batch, jax.random.split(jax.random.split(key)[0], 3)[0]))()
    views = np.asarray(seen, np.float64).reshape(8, 2, 7)
    assert np.abs(views[:, 0] - views[:, 1]).max() > 0.5
    online, target = variables["params"], variables["target"]
    q = dense(online["predictor"], dense(online["projector"], dense(online["encoder"], views)))
    z = dense(target["projector"], dense(target["encoder"], views))
    each = by_equation(q[:, 0], z[:, 1]) + by_equation(q[:, 1], z[:, 0])
    got = jax.jit(lambda: PLAIN.loss(variables, batch, key, True)[0])()
    assert float(got.value) == pytest.approx(each[:SHOWN].mean(), rel=1e-5)
    np.testing.assert_allclose(byol_loss(q[:, 0], z[:, 1]), by_equation(q[:, 0], z[:, 1]), rtol=1e-5)
    assert float(byol_loss(jnp.ones((1, 3)), 2 * jnp.ones((1, 3)))[0]) == pytest.approx(0, abs=1e-6)


def test_no_gradient_goes_to_the_target_and_one_goes_to_every_online_part(variables, batch):
    def value(params, target):
        return PLAIN.loss({"params": params, "target": target}, batch, jax.random.key(1), True)[0].value

    online, followed = jax.jit(jax.grad(value, argnums=(0, 1)))(variables["params"], variables["target"])
    assert all((leaf == 0).all() for leaf in leaves(followed).values())
    assert {name: bool((leaf["output"]["kernel"] != 0).any()) for name, leaf in online.items()} == dict.fromkeys(
        ("encoder", "projector", "predictor"), True
    )
    through = jax.grad(lambda wanted: byol_loss(jnp.ones((2, 3)), wanted).sum())(jnp.arange(6.0).reshape(2, 3) + 1)
    assert (np.asarray(through) == 0).all()


def test_the_share_of_the_target_goes_from_its_base_to_one():
    # tau = 1 - (1 - base) (cos(pi k / K) + 1) / 2
    got = [float(follower_momentum(0.9, step, 4)) for step in (0, 1, 2, 4, 9)]
    half = 1 - 0.1 * (np.sqrt(0.5) + 1) / 2
    np.testing.assert_allclose(got, [0.9, half, 0.95, 1.0, 1.0], rtol=1e-6)
    assert float(follower_momentum(0.9, 7, 0)) == pytest.approx(0.9)


def test_the_target_is_the_average_in_closed_form(short, vectors, one_device):
    parts = assemble(short, vectors, mesh=one_device)
    state, step = parts.fresh_state(), jax.jit(parts.task.make_step(parts.recipe))
    payload = parts.feed.load(0, 12, 12)
    seen = [leaves({name: state.params[name] for name in ("encoder", "projector")})]
    assert_same_bits(state.model_state["target"], {name: state.params[name] for name in ("encoder", "projector")})
    for number in range(12):
        state, _ = step(state, parts.feed.batch(payload, number, state.step))
        seen.append(leaves({name: state.params[name] for name in ("encoder", "projector")}))
    kept = 1 - (1 - 0.99) * (np.cos(np.pi * np.arange(12) / 12) + 1) / 2
    # The weight of each state: what its step lets in, times what all later steps keep.
    weights = [np.prod(kept), *((1 - kept[k]) * np.prod(kept[k + 1 :]) for k in range(12))]
    assert sum(weights) == pytest.approx(1)
    for path, leaf in leaves(state.model_state["target"]).items():
        wanted = sum(weight * one[path].astype(np.float64) for weight, one in zip(weights, seen, strict=True))
        np.testing.assert_allclose(leaf, wanted, atol=1e-6, err_msg=path)
        assert np.abs(leaf - seen[-1][path]).max() > 1e-3, path
    # A step that is not taken leaves it alone.
    batch = parts.feed.batch(payload, 0, state.step)
    after, _ = step(state, {**batch, "inputs": batch["inputs"].at[0, 0].set(jnp.nan)})
    assert_same_bits(after.model_state["target"], state.model_state["target"])


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits_and_opens_again(short, vectors, tmp_path):
    options = {"dataset": vectors, "progress": "none"}
    whole = train(short, **options)
    for stop in (5, None):
        cut = train(short, run_dir=tmp_path / "run", stop_at=stop, **options)
    assert_same_bits(cut.state, whole.state)
    scores = cut.evaluate()
    assert {"knn", "probe", "spread", "alignment"} <= scores.keys()
    again = open_run(tmp_path / "run", dataset=vectors)
    assert again.evaluate() == scores
    assert again.predict(vectors.test["inputs"][:3]).shape == (3, 4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"]["type"] == "BYOL"


def test_mistakes_are_named_and_the_predictor_takes_the_size_of_the_projections(vectors, batch):
    with pytest.raises(ValueError, match=r"momentum is in \[0, 1\), got 1.0"):
        replace(PLAIN, momentum=1.0)
    wrong = replace(PLAIN, predictor=MLP(widths=(), outputs=3))
    with pytest.raises(DataError, match=r"gives outputs of shape \(8, 3\), and projections have shape \(8, 5\)"):
        jax.eval_shape(wrong.init, jax.random.key(0), batch)
    assert replace(PLAIN, predictor=MLP()).bind(vectors.card).predictor.outputs == 5
