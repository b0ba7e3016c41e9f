"""Modules with several inputs, sown losses, names of axes of their own, and calls that cannot be."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import jaxnets
from jaxnets.core.errors import DataError, UsageError
from jaxnets.parallel import MeshShape
from jaxnets.runs.directory import RunDirectory

pandas = pytest.importorskip("pandas")

N = 64


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (N, 4, 4, 1)).astype(np.uint8),
        "tokens": rng.integers(0, 9, (N, 5)),
        "mask": rng.random((N, 5)) < 0.7,
        "age": rng.normal(40, 9, N),
        "y": rng.integers(0, 3, N),
    }


class Two(nn.Module):
    @nn.compact
    def __call__(self, image, tokens, mask=None, *, age=None, train: bool = False):
        assert (image.dtype, tokens.dtype) == (jnp.float32, jnp.int32)
        words = nn.Embed(9, 6)(tokens)
        if mask is not None:
            assert mask.dtype == bool
            words = jnp.where(mask[..., None], words, 0.0)
        parts = [nn.Dense(4)(image.reshape(len(image), -1)), words.mean(axis=1)]
        return nn.Dense(3)(jnp.concatenate(parts + ([] if age is None else [age[:, None]]), axis=-1))


def fitted(model, inputs, y, **options):
    options = {
        "test": (inputs, y),
        "batch_size": len(y),
        "steps": 3,
        "log_every": 1,
        "optimizer": optax.sgd(0.1),
    } | options
    return jaxnets.fit(model, (inputs, y), progress="none", **options)


def by_hand(run, y, call, penalty=lambda params, batch: 0.0, steps=3):
    """The losses of plain gradient descent on the batches of the run's own feed, and the parameters at the end."""
    params = run.parts.fresh_state().params
    losses = []

    def loss(params, batch):
        logits = call(params, batch)
        cross = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).mean()
        return cross + penalty(params, batch)

    for step in range(steps):
        batch = run.parts.feed.batch(run.parts.feed.load(step, 1, 1), 0, jnp.int32(step))
        value, grad = jax.value_and_grad(loss)(params, batch)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
        losses.append(float(value))
    return losses, params


def logged(run, name="loss"):
    return [record[name] for record in run.history.records if record["split"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [("image", "tokens"), ("image", "tokens", "mask", "age"), ("tokens", "image")], ids="-".join
)
def test_named_inputs_are_prepared_separately_and_passed_to_their_arguments(arrays, names):
    inputs = {name: arrays[name] for name in names}
    run = fitted(Two(), inputs, arrays["y"])
    order = np.asarray(run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))["index"])
    image, age = arrays["image"].astype(np.float64), arrays["age"]
    made = {  # by numpy alone
        "image": ((image - image.mean()) / image.std()).astype(np.float32),
        "tokens": arrays["tokens"].astype(np.int32),
        "mask": arrays["mask"],
        "age": ((age - age.mean()) / age.std()).astype(np.float32),
    }
    batch = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
    assert batch["inputs"].keys() == set(names)
    for name in names:
        np.testing.assert_allclose(batch["inputs"][name], made[name][order], rtol=1e-5, atol=1e-5)
    losses, params = by_hand(run, arrays["y"], lambda p, batch: Two().apply({"params": p}, **batch["inputs"]))
    np.testing.assert_allclose(logged(run), losses, rtol=1e-5)
    logits = Two().apply({"params": params}, **{name: made[name] for name in names})
    np.testing.assert_allclose(run.outputs(inputs), logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(run.predict(inputs), logits.argmax(axis=1))


@pytest.mark.slow
def test_a_tuple_a_list_and_frames_are_passed_by_position(arrays, tmp_path):
    a, b = np.random.default_rng(1).normal(size=(N, 16)), arrays["tokens"]
    runs = [
        fitted(Two(), inputs, arrays["y"], run_dir=tmp_path / str(place), micro_batches=2)
        for place, inputs in enumerate([(a, b), [pandas.DataFrame(a), b], {"image": a, "tokens": b}])
    ]
    assert logged(runs[0]) == logged(runs[1]) == logged(runs[2])
    np.testing.assert_array_equal(runs[0].predict((a, b)), runs[2].predict({"tokens": b, "image": a}))
    for place, run in enumerate(runs):
        assert RunDirectory.preparation_in(tmp_path / str(place)) == run.parts.dataset.preparation
    np.savez(tmp_path / "new.npz", image=a, tokens=b, targets=arrays["y"])
    np.testing.assert_array_equal(runs[2].predict(tmp_path / "new.npz"), runs[0].predict((a, b)))


def test_rows_of_one_array_stay_one_array():
    rows = [np.ones(3), np.zeros(3)]
    assert jaxnets.from_arrays(rows, [0, 1], holdout=0.5).several == ()
    assert jaxnets.from_arrays((np.eye(4), np.eye(4)), [0, 1, 0, 1]).train["inputs/1"].shape == (3, 4)


class OneDict(nn.Module):
    @nn.compact
    def __call__(self, batch):
        return nn.Dense(3)(batch["left"]) + nn.Dense(3)(batch["right"])


@pytest.mark.slow
def test_inputs_whose_names_are_not_arguments_are_passed_as_one_dict():
    rng = np.random.default_rng(0)
    inputs, y = {name: rng.normal(size=(N, 2)) for name in ("left", "right")}, rng.integers(0, 3, N)
    run = fitted(OneDict(), inputs, y)
    losses, _ = by_hand(run, y, lambda p, batch: OneDict().apply({"params": p}, batch["inputs"]))
    np.testing.assert_allclose(logged(run), losses, rtol=1e-5)


class NoCall(nn.Module):
    def setup(self):
        self.layer = nn.Dense(3)

    def encode(self, x):
        return self.layer(x)


def test_several_inputs_that_do_not_fit_are_refused(arrays):
    image, tokens, y = arrays["image"], arrays["tokens"], arrays["y"]
    run = fitted(Two(), (image, tokens), y)
    for make, said in (
        (lambda: run.predict(image), "a tuple of 2 arrays, got ndarray"),
        (lambda: run.predict((image,)), "a tuple of 2 arrays, got tuple of 1"),
        (lambda: run.predict((image, tokens + 0.5)), "whole numbers"),
        (lambda: run.predict((image, tokens[:3])), "predict takes inputs/1 of shape"),
        (lambda: fitted(Two(), {"image": image, "token": tokens}, y), "has no argument 'token'"),
        (lambda: fitted(Two(), {"image": {"a": image}}, y), "one level of names"),
        (lambda: fitted(Two(), {}, y), "an empty one"),
        (lambda: fitted(Two(), {"image": image, "tokens": tokens[:9]}, y), "for 9 inputs/tokens"),
        (lambda: fitted(Two(), (image, tokens), y, test=(image, y)), "a tuple of 2 arrays, got ndarray"),
        (lambda: fitted(Two(), (image, tokens), y, test=((image, tokens[:, :2]), y)), "test inputs/1 have shape (2,)"),
        (lambda: jaxnets.from_arrays((image, tokens), y, input_kind="tokens"), "there are 2 inputs; leave it out"),
        (lambda: fitted(Two(), {"image": image, "tokens": tokens + 2**40}, y), "int32 cannot hold"),
        (lambda: fitted(Two(), image, y), '({"image": ..., "tokens": ...}, targets)'),
        (
            lambda: fitted(OneDict(), image, y),
            "It was called as OneDict(float32[64, 4, 4, 1]); its call is OneDict(batch)",
        ),
        (lambda: fitted(NoCall(), image, y), "NoCall has no __call__, only encode; add one"),
    ):
        with pytest.raises(DataError if "argument" not in said else UsageError) as error:
            make()
        assert said in str(error.value)


class Sows(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[1], 3))
        y = x @ kernel
        self.sow("losses", "l2", 0.1 * jnp.square(kernel).sum())
        self.sow("losses", "z", 0.05 * jnp.square(y).sum(axis=1))
        self.sow("losses", "total", 0.25, reduce_fn=lambda a, b: a + b, init_fn=lambda: 0.0)
        self.sow("intermediates", "y", y)
        return y


def penalty(params, batch):
    y = batch["inputs"] @ params["kernel"]
    return 0.1 * jnp.square(params["kernel"]).sum() + (0.05 * jnp.square(y).sum(axis=1)).mean() + 0.25


@pytest.mark.parametrize(
    "options", [{}, {"micro_batches": 2}, {"mesh": MeshShape(data=4, fsdp=2)}, {"loss": True}], ids=str
)
def test_sown_losses_are_added_to_the_loss_and_logged(options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 4)), rng.integers(0, 3, N)
    if "loss" in options:
        options = {"loss": lambda out, batch: optax.softmax_cross_entropy_with_integer_labels(out, batch["targets"])}
    run = fitted(Sows(), x, y, **options)
    losses, params = by_hand(run, y, lambda p, batch: batch["inputs"] @ p["kernel"], penalty)
    np.testing.assert_allclose(logged(run), losses, rtol=1e-5)
    np.testing.assert_allclose(run.state.params["kernel"], params["kernel"], rtol=1e-4, atol=1e-6)
    batch = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
    assert logged(run, "sown_losses")[0] == pytest.approx(
        float(penalty(run.parts.fresh_state().params, batch)), rel=1e-5
    )
    assert run.state.model_state == {}
    assert "sown_losses" not in run.evaluate()


class Totals(nn.Module):
    @nn.compact
    def __call__(self, x):
        for place in range(2):
            x = nn.Dense(3)(x)
            self.sow("losses", "total", 1.0 + place, reduce_fn=lambda a, b: a + b, init_fn=lambda: 0.0)
        return x


def test_a_sum_that_the_module_accumulates_starts_at_0_in_every_step():
    rng = np.random.default_rng(0)
    run = fitted(Totals(), rng.normal(size=(N, 4)), rng.integers(0, 3, N))
    assert logged(run, "sown_losses") == [3.0, 3.0, 3.0]
    assert run.state.model_state == {}


def test_example_weights_do_not_change_sown_losses():
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(N, 4)), rng.integers(0, 3, N), rng.uniform(0.5, 3, N)
    run = jaxnets.fit(
        Sows(), (x, y, weights), test=(x, y), batch_size=N, steps=1, optimizer=optax.sgd(0.1), progress="none"
    )
    batch = run.parts.feed.batch(run.parts.feed.load(0, 1, 1), 0, jnp.int32(0))
    params = run.parts.fresh_state().params
    cross = optax.softmax_cross_entropy_with_integer_labels(batch["inputs"] @ params["kernel"], batch["targets"])
    wanted = (cross * batch["mask"]).sum() / batch["mask"].sum() + penalty(params, batch)
    assert logged(run)[0] == pytest.approx(float(wanted), rel=1e-5)


class Placed(nn.Module):
    how: str = ""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        if self.how in ("boxes", "other boxes"):
            init = nn.with_partitioning(init, ("data" if self.how == "boxes" else "model", None))
        if self.how == "logical boxes":
            init = nn.with_logical_partitioning(init, ("embed", "mlp"))
        if self.how == "boxes of several axes":
            boxed = nn.with_partitioning(init, ("model", "data", None))
            x = nn.DenseGeneral((4, 4), kernel_init=boxed, name="Dense_0")(x).reshape(*x.shape[:-1], 16)
        else:
            x = nn.Dense(16, kernel_init=init)(x)
        if self.how == "logical":
            x = nn.with_logical_constraint(x, ("batch", "embed"))
        if "rules" in self.how:
            with nn.logical_axis_rules((("batch", "data"), ("embed", "model" if "wrong" in self.how else None))):
                x = nn.with_logical_constraint(x, ("batch", "embed"))
        if self.how == "lax":
            x = jax.lax.with_sharding_constraint(x, P("data"))
        if self.how == "wrong lax":
            x = jax.lax.with_sharding_constraint(x, P("data", "model"))
        if self.how == "shard_map":
            x = jax.shard_map(lambda a: a * 1.0, in_specs=P("data"), out_specs=P("data"))(x)
        if self.how == "pmean":
            x = x - jax.lax.pmean(x.mean(axis=0), "batch")
        x = nn.BatchNorm(use_running_average=False, axis_name="batch")(x) if self.how == "norm" else x
        return nn.Dense(3, name="Dense_1")(x)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        *(
            (how, "")
            for how in (
                "boxes",
                "other boxes",
                "boxes of several axes",
                "logical boxes",
                "logical",
                "rules",
                "lax",
                "shard_map",
            )
        ),
        ("wrong rules", "use the axes data, fsdp and tensor"),
        ("wrong lax", "use the axes data, fsdp and tensor"),
        ("pmean", "leave axis_name out"),
        ("norm", "leave axis_name out"),
    ],
)
def test_modules_that_place_arrays_train_like_those_that_do_not(how, said):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 4)), rng.integers(0, 3, N)
    with pytest.raises(UsageError, match=said) if said else contextlib.nullcontext():
        found = logged(fitted(Placed(how), x, y, mesh=MeshShape(data=4, fsdp=2)))
        plain = logged(fitted(Placed(), x, y, mesh=MeshShape(data=4, fsdp=2)))
        np.testing.assert_allclose(found, plain, rtol=1e-5)
