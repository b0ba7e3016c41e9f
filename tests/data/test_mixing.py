"""Mixup, CutMix, soft targets, and noise as a penalty."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxnets
from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import Augment, TableAugment, from_arrays
from jaxnets.data.augment import Facts, mixing
from jaxnets.data.feed import ResidentFeed, StreamFeed, Transform
from jaxnets.data.order import Padded, Shuffled
from jaxnets.models import MLP
from jaxnets.optim import SGD
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.parallel.mesh import placement
from jaxnets.tasks import F1, Classification, MarginClassification, MultiLabel, Regression
from jaxnets.tasks.losses import cross_entropy

RNG = np.random.default_rng(1)
KEY = jax.random.key(5)
CLASSES = Facts(shape=(6, 5, 2), kind="class", classes=3)


def batch_of(rows=12, shape=(6, 5, 2)):
    inputs = jnp.asarray(RNG.normal(size=(rows, *shape)), jnp.float32)
    return {
        "inputs": inputs,
        "targets": jnp.arange(rows) % 3,
        "mask": jnp.ones(rows),
        "index": jnp.arange(rows) + 100,
    }


@pytest.mark.smoke
def test_mixup_averages_inputs_and_targets_with_one_share():
    batch = batch_of()
    mixed = mixing.mixup(batch, KEY, 0.8, CLASSES)
    partner = np.asarray(mixing.partners(jax.random.split(KEY)[0], batch["mask"]))
    assert sorted(partner) == list(range(12))
    assert (partner != np.arange(12)).all()
    x, hot = np.asarray(batch["inputs"]), np.eye(3)[np.asarray(batch["targets"])]
    for i, j in enumerate(partner):
        share = np.dot(np.ravel(mixed["inputs"][i] - x[j]), np.ravel(x[i] - x[j])) / np.square(x[i] - x[j]).sum()
        np.testing.assert_allclose(mixed["inputs"][i], share * x[i] + (1 - share) * x[j], atol=1e-5)
        np.testing.assert_allclose(mixed["targets"][i], share * hot[i] + (1 - share) * hot[j], atol=1e-5)
    # The expected loss of the paper: share CE(a) + (1 - share) CE(b).
    logits = jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32)
    shares = np.asarray(mixing.shares(mixing.keys_of(batch, jax.random.split(KEY)[1]), 0.8))
    own, other = (cross_entropy(logits, labels) for labels in (batch["targets"], batch["targets"][partner]))
    np.testing.assert_allclose(cross_entropy(logits, mixed["targets"]), shares * own + (1 - shares) * other, rtol=2e-6)


def test_cutmix_counts_the_pixels_that_are_kept():
    batch = batch_of(40)
    mixed = mixing.cutmix(batch, KEY, 1.0, CLASSES)
    partner = np.asarray(mixing.partners(jax.random.split(KEY)[0], batch["mask"]))
    x, hot = np.asarray(batch["inputs"]), np.eye(3)[np.asarray(batch["targets"])]
    taken = np.asarray(mixed["inputs"]) != x
    assert (taken.any(axis=-1) == taken.all(axis=-1)).all()  # whole pixels
    np.testing.assert_array_equal(np.asarray(mixed["inputs"]), np.where(taken, x[partner], x))
    kept = 1 - taken[..., 0].mean(axis=(1, 2))
    np.testing.assert_allclose(mixed["targets"], kept[:, None] * hot + (1 - kept)[:, None] * hot[partner], atol=1e-6)
    assert 0 < kept.min() < 0.5 < kept.max()
    for hole in taken[..., 0]:
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert not rows.size or hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_shares_have_the_beta_distribution_and_alpha_0_is_plain():
    keys = jax.random.split(jax.random.key(2), 2000)
    drawn = np.asarray(jax.jit(lambda keys: mixing.shares(keys, 0.4))(keys))
    assert scipy.stats.kstest(drawn, scipy.stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    batch = batch_of()
    assert Augment().mix(batch, KEY, CLASSES) is batch
    tiny = mixing.mixup(batch, KEY, 1e-4, CLASSES)
    partner = np.asarray(mixing.partners(jax.random.split(KEY)[0], batch["mask"]))
    x = np.asarray(batch["inputs"])
    for i, j in enumerate(partner):  # shares are 0 or 1, up to rounding
        a, b = (np.abs(np.asarray(tiny["inputs"][i]) - x[k]).max() for k in (i, j))
        assert min(a, b) < 1e-5


def test_rows_that_do_not_count_are_not_mixed_into_others():
    batch = batch_of()
    masked = np.array([2, 3, 11])
    batch["mask"] = batch["mask"].at[masked].set(0.0)
    batch["inputs"] = batch["inputs"].at[masked].set(jnp.nan)
    partner = np.asarray(mixing.partners(KEY, batch["mask"]))
    np.testing.assert_array_equal(partner[masked], masked)
    rest = np.setdiff1d(np.arange(12), masked)
    assert sorted(partner[rest]) == rest.tolist()
    assert (partner[rest] != rest).all()
    for mixed in (mixing.mixup(batch, KEY, 0.5, CLASSES), mixing.cutmix(batch, KEY, 1.0, CLASSES)):
        assert np.isfinite(np.asarray(mixed["inputs"])[rest]).all()
        np.testing.assert_array_equal(mixed["mask"], batch["mask"])
    alone = mixing.partners(KEY, jnp.zeros(4).at[1].set(1.0))
    np.testing.assert_array_equal(alone, np.arange(4))
    counts, drawn = np.zeros((5, 5)), jax.jit(mixing.partners)
    for seed in range(400):
        counts[np.arange(5), np.asarray(drawn(jax.random.key(seed), jnp.ones(5)))] += 1
    assert counts.trace() == 0
    assert counts[np.eye(5) == 0].min() > 60  # 100 each, four deviations


def test_mixup_and_cutmix_together_take_one_of_them():
    batch = batch_of(40)
    both = Augment(mixup=1.0, cutmix=1.0).mix(batch, KEY, CLASSES)
    ups, cuts = mixing.mixup(batch, KEY, 1.0, CLASSES), mixing.cutmix(batch, KEY, 1.0, CLASSES)
    is_up = np.array([np.array_equal(both["inputs"][i], ups["inputs"][i]) for i in range(40)])
    is_cut = np.array([np.array_equal(both["inputs"][i], cuts["inputs"][i]) for i in range(40)])
    assert (is_up ^ is_cut).all()
    assert 8 < is_up.sum() < 32
    for i in range(40):
        np.testing.assert_array_equal(both["targets"][i], (ups if is_up[i] else cuts)["targets"][i])


def test_weights_and_unknown_labels_and_numbers_are_mixed():
    batch = batch_of() | {"mask": jnp.linspace(0.5, 2.0, 12)}
    mixed = mixing.mixup(batch, KEY, 0.8, CLASSES)
    partner = np.asarray(mixing.partners(jax.random.split(KEY)[0], batch["mask"]))
    shares = np.asarray(mixing.shares(mixing.keys_of(batch, jax.random.split(KEY)[1]), 0.8))
    weights = np.asarray(batch["mask"])
    np.testing.assert_allclose(mixed["mask"], shares * weights + (1 - shares) * weights[partner], rtol=1e-5)
    labels = jnp.asarray(RNG.integers(-1, 2, (12, 4)))
    several = mixing.mixup({**batch, "targets": labels}, KEY, 0.8, dataclasses.replace(CLASSES, kind="labels"))
    unknown = np.asarray((labels < 0) | (labels[partner] < 0))
    np.testing.assert_array_equal(np.asarray(several["targets"]) == -1, unknown)
    # A target that is linear in the inputs is the same linear function of the mixed ones.
    weight = jnp.asarray(RNG.normal(size=60), jnp.float32)
    line = {**batch, "targets": batch["inputs"].reshape(12, -1) @ weight}
    mixed = mixing.mixup(line, KEY, 0.8, dataclasses.replace(CLASSES, kind="number"))
    np.testing.assert_allclose(mixed["targets"], mixed["inputs"].reshape(12, -1) @ weight, atol=1e-4)


@pytest.mark.parametrize(
    ("road", "policy"),
    [(ResidentFeed, "none"), pytest.param(StreamFeed, "trivial", marks=pytest.mark.slow)],
)
def test_batches_are_the_same_on_one_and_on_eight_devices(road, policy):
    images = RNG.integers(0, 256, (40, 6, 6, 3)).astype(np.uint8)
    augment = Augment(shift=1, erase=0.3, policy=policy, mixup=0.4, cutmix=1.0)
    data = from_arrays(images, np.arange(40) % 3, augment=augment, test=(images, np.arange(40) % 3))
    made = []
    for devices in (1, 8):
        mesh = make_mesh(MeshShape(data=devices))
        transform = Transform(data.preparation, augment=augment, seed=3)
        order = Padded(Shuffled(40, 13, 0), 16)  # the last three rows do not count
        feed = road(data.train, order, transform, placement(mesh))
        with jax.set_mesh(mesh):
            made.append(jax.jit(lambda p, step, feed=feed: feed.batch(p, 0, step))(feed.load(2, 1, 1), jnp.asarray(2)))
    assert made[0]["targets"].shape == (16, 3)
    for name, one in made[0].items():
        # The draws are the same bits. In mixup a product and a sum are rounded once or twice, as the compiler fuses them.
        np.testing.assert_allclose(one, made[1][name], atol=1e-6 if name == "inputs" else 0, rtol=0, err_msg=name)
    np.testing.assert_allclose(made[0]["targets"].sum(axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_a_run_with_mixing_does_not_depend_on_micro_batches_or_devices():
    x, y = RNG.normal(size=(64, 5)).astype(np.float32), np.arange(64) % 3
    runs = [
        jaxnets.fit(
            MLP(widths=(8,)),
            (x, y),
            augment=Augment(mixup=0.4),
            optimizer=SGD(),
            steps=6,
            batch_size=16,
            progress="none",
            **more,
        )
        for more in ({}, {"micro_batches": 2}, {"mesh": MeshShape(data=1)})
    ]
    for other in runs[1:]:
        for a, b in zip(*(jax.tree.leaves(run.state.params) for run in (runs[0], other)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)  # sums in another order


# --- soft targets


def test_the_cross_entropy_of_distributions():
    logits = jnp.asarray(RNG.normal(size=(9, 4)) * 5, jnp.float32)
    labels = jnp.arange(9) % 4
    hot = jax.nn.one_hot(labels, 4)
    for smoothing in (0.0, 0.1):
        hard, soft = (
            jax.value_and_grad(lambda z, t=t, s=smoothing: cross_entropy(z, t, label_smoothing=s).sum())(logits)
            for t in (labels, hot)
        )
        np.testing.assert_array_equal(hard[0], soft[0])
        np.testing.assert_allclose(hard[1], soft[1], atol=1e-7)
        p = RNG.dirichlet(np.ones(4), 9).astype(np.float32)
        torch = pytest.importorskip("torch")
        theirs = torch.nn.functional.cross_entropy(
            torch.tensor(np.asarray(logits)), torch.tensor(p), reduction="none", label_smoothing=smoothing
        )
        np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(p), label_smoothing=smoothing), theirs, rtol=1e-5)
    # A model may have more outputs than the data have classes.
    np.testing.assert_array_equal(
        cross_entropy(logits, hot[:, :3]), jnp.where(labels < 3, cross_entropy(logits, labels), 0)
    )
    with pytest.raises(AssertionError):
        cross_entropy(logits[:, :3], hot)


def test_data_may_have_soft_targets():
    x, y = RNG.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 3
    settings = {"steps": 5, "batch_size": 8, "progress": "none", "optimizer": SGD(), "metrics": {"f1": F1()}}
    kinds = (("class", y), ("distribution", np.eye(3)[y]))
    runs = [jaxnets.fit(MLP(widths=(4,)), from_arrays(x, t, kind=kind), **settings) for kind, t in kinds]
    for a, b in zip(*(jax.tree.leaves(run.state.params) for run in runs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    hard, soft = (run.evaluate() for run in runs)
    assert hard == pytest.approx(soft, abs=1e-6)
    assert runs[1].predict(x[:2], names=True).tolist() == runs[0].predict(x[:2], names=True).tolist()
    assert runs[1].evaluate((x, np.eye(3)[y])) == pytest.approx(runs[0].evaluate((x, y)), abs=1e-6)
    task = Classification(model=MLP(outputs=3))
    card = from_arrays(x, np.eye(3)[y], kind="distribution").card
    outputs = RNG.normal(size=(40, 3)).astype(np.float32)
    for one, other in zip(
        task.exhibits(outputs, {"targets": y}, card),
        task.exhibits(outputs, {"targets": np.eye(3)[y]}, card),
        strict=True,
    ):
        assert str(one) == str(other)


def test_targets_that_are_no_distributions_are_refused():
    x, p = RNG.normal(size=(20, 3)), RNG.dirichlet(np.ones(4), 20)
    with pytest.raises(DataError, match=r"row \d+ is .*, whose sum is 2; divide each row by its sum"):
        from_arrays(x, 2 * p, kind="distribution")
    with pytest.raises(DataError, match="whose sum is nan"):
        from_arrays(x, p * np.nan, kind="distribution")
    with pytest.raises(DataError, match="kind='distribution'"):
        from_arrays(x, p, kind="class")
    with pytest.raises(DataError, match="2 names for distributions over 4 classes"):
        from_arrays(x, p, kind="distribution", class_names=("a", "b"))
    data = from_arrays(x, p, kind="distribution")
    with pytest.raises(DataError, match="MarginClassification needs one integer label"):
        MarginClassification(model=MLP()).bind(data.card)
    with pytest.raises(DataError, match="a distribution over the classes for each example; use Classification"):
        MultiLabel(model=MLP()).bind(data.card)


def test_a_task_that_cannot_take_mixed_targets_is_refused_before_the_first_step():
    x, y = RNG.normal(size=(20, 3)).astype(np.float32), np.arange(20) % 3
    settings = {"augment": Augment(mixup=0.2), "steps": 2, "progress": "none"}
    with pytest.raises(UsageError, match="MarginClassification does not take; leave augment.mixup"):
        jaxnets.fit(MarginClassification(model=MLP()), (x, y), **settings)

    def by_number(outputs, batch):
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["targets"][:, None], axis=1)[:, 0]

    with pytest.raises(UsageError, match=r"averages, float32 of shape \[\d+, 3\]"):
        jaxnets.fit(MLP(), (x, y), loss=by_number, **settings)
    longer = {"lengths": np.full(20, 3), "targets": y, "inputs": RNG.normal(size=(20, 4, 2))}
    data = from_arrays(longer["inputs"], y, test=(longer["inputs"], y))
    with pytest.raises(DataError, match="mixup averages inputs and targets, but the data have the array 'lengths'"):
        dataclasses.replace(data, train=longer, test=longer, augment=Augment(mixup=0.2))


# --- noise


def test_noise_on_the_inputs_of_a_linear_model_is_ridge_regression():
    # Bishop 1995: the expected squared error under noise of deviation s is the error plus s^2 |w|^2, so the minimum over many
    # noisy copies is that of ridge regression with penalty N s^2.
    rows, copies, deviation = 20, 4000, 0.7
    x = RNG.normal(size=(rows, 3)).astype(np.float32)
    y = x @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=rows)
    keys = jax.random.split(jax.random.key(0), copies)
    noisy = jax.jit(jax.vmap(lambda key: Augment(noise=deviation)(jnp.asarray(x), key)))(keys)
    noisy = np.asarray(noisy, np.float64).reshape(-1, 3)
    found = np.linalg.lstsq(noisy, np.tile(y, copies), rcond=None)[0]
    ridge = np.linalg.solve(x.T @ x + rows * deviation**2 * np.eye(3), x.T @ y)
    plain = np.linalg.lstsq(x, y, rcond=None)[0]
    # 80,000 noisy rows: a standard error of about .004.
    np.testing.assert_allclose(found, ridge, atol=0.02)
    assert np.abs(plain - ridge).max() > 0.3
    error = np.square(noisy @ ridge - np.tile(y, copies)).mean()
    want = np.square(x @ ridge - y).mean() + deviation**2 * np.square(ridge).sum()
    assert error == pytest.approx(want, rel=0.02)


# --- tables


def test_values_of_a_table_are_dropped_and_swapped_within_their_column():
    rows = jnp.asarray(np.arange(40)[:, None] + 100 * np.arange(3)[None] + 1, jnp.float32)
    batch = {"inputs": rows, "targets": jnp.zeros(40), "mask": jnp.ones(40).at[39].set(0), "index": jnp.arange(40)}
    augment, facts = TableAugment(drop=0.3, swap=0.4), Facts(shape=(3,), kind="number")
    dropped = np.asarray(augment.change(batch, KEY, facts)["inputs"])
    assert 20 < (dropped == 0).sum() < 52  # 36, three deviations
    np.testing.assert_array_equal(dropped[dropped != 0], np.asarray(rows)[dropped != 0])
    swapped = np.asarray(augment.mix(batch, KEY, facts)["inputs"])
    changed = swapped != np.asarray(rows)
    assert 30 < changed.sum() < 64  # 47
    np.testing.assert_array_equal(swapped // 100, np.asarray(rows) // 100)  # the column stays
    assert not (swapped[:39] % 100 == 40).any()  # the masked row is in no other
    assert not changed[39].any()
    x = RNG.normal(size=(20, 3)).astype(np.float32)
    run = jaxnets.fit(
        Regression(model=MLP(widths=(4,))),
        from_arrays(x, x[:, 0], augment=(TableAugment(drop=0.1, swap=0.2), Augment(noise=0.1))),
        steps=2,
        progress="none",
    )
    assert np.isfinite(run.evaluate()["loss"])
    with pytest.raises(UsageError, match="two of the augmentations mix"):
        from_arrays(x, x[:, 0], augment=(TableAugment(swap=0.2), Augment(mixup=0.1)))
    with pytest.raises(DataError, match="TableAugment needs one table"):
        from_arrays(x.reshape(5, 4, 3), x[:5, 0], augment=TableAugment(drop=0.2))
