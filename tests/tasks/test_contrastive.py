"""SimCLR and VICReg against numpy; views; neighbours and probe against scikit-learn; batches over several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.optim import Adam
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.tasks import SimCLR, VICReg, Views
from jaxnets.tasks.contrastive import nt_xent, vicreg_terms
from jaxnets.tasks.embedding import neighbour_accuracy, probe_accuracy

PAIRS = np.random.default_rng(0).normal(size=(8, 2, 5)).astype(np.float32)
SHOWN = 6  # rows that count in a masked batch


def by_equation(pairs, temperature):
    """Equation 1 of Chen et al. 2020, term by term."""
    count = len(pairs)
    z = pairs.reshape(2 * count, -1).astype(np.float64)
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in z] for a in z])
    each = np.zeros(2 * count)
    for i in range(2 * count):
        others = [np.exp(cosine[i, k] / temperature) for k in range(2 * count) if k != i]
        each[i] = -np.log(np.exp(cosine[i, i ^ 1] / temperature) / sum(others))
    return each.reshape(count, 2).mean(axis=1)


@pytest.mark.smoke
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_its_equation_and_masked_rows_are_not_negatives(temperature):
    got = nt_xent(jnp.asarray(PAIRS), jnp.ones(8), temperature=temperature)
    np.testing.assert_allclose(got, by_equation(PAIRS, temperature), rtol=1e-5, atol=1e-6)
    mask = jnp.arange(8) < SHOWN
    got = nt_xent(jnp.asarray(PAIRS), mask * 1.0, temperature=temperature)[:SHOWN]
    np.testing.assert_allclose(got, by_equation(PAIRS[:SHOWN], temperature), rtol=1e-5, atol=1e-6)


def test_over_eight_devices_the_negatives_are_those_of_the_whole_batch():
    mesh = make_mesh(MeshShape(data=8))
    place = jax.sharding.NamedSharding(mesh, P("data"))

    def value_and_gradient(pairs, mask):
        return jax.value_and_grad(lambda p: nt_xent(p, mask).sum())(pairs)

    split = jax.jit(value_and_gradient, in_shardings=(place, place))(PAIRS, np.ones(8, np.float32))
    dense = jax.jit(value_and_gradient)(PAIRS, np.ones(8, np.float32))
    assert len(split[1].sharding.device_set) == 8
    # Sums in another order.
    np.testing.assert_allclose(split[0], dense[0], rtol=1e-6)
    np.testing.assert_allclose(split[1], dense[1], atol=1e-6)


def test_vicreg_is_its_equations_over_the_rows_that_count():
    got = vicreg_terms(jnp.asarray(PAIRS), (jnp.arange(8) < SHOWN) * 1.0)
    z = PAIRS[:SHOWN].astype(np.float64)
    invariance = ((z[:, 0] - z[:, 1]) ** 2).sum(axis=1).mean() / 5
    variance = covariance = 0.0
    for view in (0, 1):
        c = np.cov(z[:, view].T)
        variance += np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)).mean() / 2
        covariance += (c[~np.eye(5, dtype=bool)] ** 2).sum() / 5
    np.testing.assert_allclose(got, (invariance, variance, covariance), rtol=1e-5)


def test_the_loss_is_made_of_the_terms_and_a_masked_row_changes_nothing():
    task = VICReg(model=MLP(widths=(), outputs=4), projector=MLP(widths=(), outputs=5), invariance=2.0, covariance=3.0)
    batch = {"inputs": jnp.asarray(PAIRS[:, 0]), "mask": (jnp.arange(8) < SHOWN) * 1.0}
    variables, key = task.init(jax.random.key(0), batch), jax.random.key(1)
    loss, aux = task.loss(variables, batch, key, True)
    terms = {name: float(mean.value) for name, mean in aux.metrics.items()}
    wanted = 2 * terms["invariance"] + 25 * terms["variance"] + 3 * terms["covariance"]
    assert float(loss.value) == pytest.approx(wanted, rel=1e-5)
    other = {**batch, "inputs": batch["inputs"].at[7].set(9.0)}
    assert float(task.loss(variables, other, key, True)[0].value) == pytest.approx(float(loss.value), rel=1e-6)


def test_neighbours_and_probe_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn")
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    assert sklearn
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 150)
    x = rng.normal(size=(4, 6))[y] * 0.7 + rng.normal(size=(150, 6))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    theirs = cross_val_predict(KNeighborsClassifier(3, algorithm="brute"), unit, y, cv=LeaveOneOut())
    assert neighbour_accuracy(unit, y, 3) == pytest.approx((theirs == y).mean())
    mean, deviation = x[::2].mean(axis=0), x[::2].std(axis=0)
    scaled = (x - mean) / deviation
    # Their targets are 1 and -1, which halves nothing but the scale; their penalty is of the sum, ours of the mean.
    ridge = RidgeClassifier(alpha=1e-3 * 75).fit(scaled[::2], y[::2])
    assert probe_accuracy(x, y) == pytest.approx(ridge.score(scaled[1::2], y[1::2]), abs=0.014)


def test_views_are_pure_keep_the_shape_and_do_what_they_say():
    image = jnp.asarray(np.random.default_rng(2).normal(size=(8, 6, 2)), jnp.float32)
    key = jax.random.key(0)
    np.testing.assert_array_equal(Views(noise=0.0)(key, image), image)
    np.testing.assert_array_equal(Views(noise=0.0, flip=1.0)(key, image), image[:, ::-1])
    one = Views(crop=0.3, contrast=0.2)
    np.testing.assert_array_equal(one(key, image), one(key, image))
    assert (one(key, image) != one(jax.random.key(1), image)).any()
    # A linear image stays linear where it is enlarged: the slope tells the side of the crop.
    ramp = jnp.broadcast_to(jnp.arange(32.0)[:, None, None], (32, 32, 1))
    cropped = np.asarray(Views(crop=0.25, noise=0.0)(key, ramp))[4:-4, 4:-4, 0]
    slope = np.diff(cropped, axis=0)
    assert np.ptp(slope) < 1e-4
    assert 0.5 <= slope.mean() <= 1.0
    dropped = Views(noise=0.0, dropped=0.5)(key, jnp.ones(4000))
    assert abs(float(dropped.mean()) - 0.5) < 0.05
    own = Views(function=lambda key, x: -x)
    np.testing.assert_array_equal(own(key, image), -image)
    with pytest.raises(UsageError, match="it has to keep the shape"):
        Views(function=lambda key, x: x[:2])(key, image)
    with pytest.raises(UsageError, match="crop, flip and contrast are for images"):
        Views(crop=0.5)(key, jnp.ones(5))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "knn", "probe"), [(SimCLR, 0.9, 0.85), (VICReg, 0.65, 0.5)])
def test_embeddings_learn_the_classes_without_labels_and_the_run_opens_again(kind, knn, probe, tmp_path):
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 600)
    # The class is in the first numbers; the others are louder, and different in every view.
    x = np.concatenate([np.eye(4)[y] + 0.1 * rng.normal(size=(600, 4)), 3 * rng.normal(size=(600, 12))], axis=1)
    data = jaxnets.from_arrays(x, y, standardize=False)

    def fresh_noise(key, one):
        return one.at[4:].set(3 * jax.random.normal(key, (12,)))

    task = kind(model=MLP(widths=(64,)), embedding=16, views=Views(function=fresh_noise))
    options = {"optimizer": Adam(learning_rate=3e-3), "batch_size": 64, "progress": "none"}
    before = jaxnets.fit(task, data, steps=1, **options).evaluate()
    run = jaxnets.fit(task, data, steps=200, run_dir=tmp_path / "run", **options)
    after = run.evaluate()
    assert before["knn"] < 0.6
    assert after["knn"] > max(knn, before["knn"] + 0.1)
    assert after["probe"] > probe
    assert run.parts.task.headline == "knn"
    assert run.predict(x[:3]).shape == (3, 16)
    again = jaxnets.open_run(tmp_path / "run", dataset=data, task=task, model=fresh_noise)
    np.testing.assert_array_equal(again.predict(x[:3]), run.predict(x[:3]))


def test_training_steps_log_no_numbers_that_only_evaluations_have():
    task = SimCLR(model=MLP(widths=(8,)), classes=3)
    assert task.derive({"loss": 1.5}) == {"loss": 1.5}
    assert {"spread", "knn", "probe"} < set(task.derive({"alignment": 1.0, "rows": 1.0}))  # the names alone
