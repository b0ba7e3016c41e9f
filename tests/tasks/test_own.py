"""A model, a loss, metrics and class weights of the user's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import whole_batch
from jax import Array

import jaxnets
from jaxnets import from_arrays
from jaxnets.checkpoints.retention import Keep
from jaxnets.core.errors import DataError, DataWarning, UsageError
from jaxnets.models import MLP, Perceptron
from jaxnets.runs.build import assemble
from jaxnets.tasks import AUROC, F1, AveragePrecision, CalibrationError, PerceptronRule


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(88, 5)).astype(np.float32)
    return x, (x @ rng.normal(size=(5, 3))).argmax(1)


def fitted(model, data, **options):
    return jaxnets.fit(model, data, **{"test": data, "steps": 5, "batch_size": 32, "progress": "none"} | options)


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool):
        return nn.Dense(3)(nn.Dropout(0.5)(nn.Dense(6)(x), deterministic=deterministic))


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, training: bool = False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not training)(nn.Dense(6)(x)))


class IsTraining(nn.Module):
    rate: Array | float = 0.5

    @nn.compact
    def __call__(self, x, is_training):
        return nn.Dense(3)(nn.Dropout(self.rate)(x, deterministic=not is_training))


class Field(nn.Module):
    """As many modules of Flax have it: a field, which the caller sets."""

    dtype: jnp.dtype = jnp.float32
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, dtype=self.dtype)(nn.Dropout(0.5, deterministic=self.deterministic)(x))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
        return nn.Dense(3, kernel_init=init)(x)


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        layer = nn.scan(nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(layer()(x, None)[0])


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(6)(x)), None


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        if train:
            x = x + 0.1 * jax.random.normal(self.make_rng("my_noise"), x.shape)
        self.sow("intermediates", "x", x)
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    "model",
    [nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(3)]), Deterministic(), Training(), IsTraining(), Field(), Boxed(), Scanned(),
     Noisy()],
    ids=lambda model: type(model).__name__,
)  # fmt: skip
def test_an_unmodified_module_trains_and_draws_in_training_only(model, data):
    run = fitted(model, data, steps=20, optimizer=optax.adam(1e-2))
    assert run.evaluate() == run.evaluate()
    before = run.parts.evaluator.metrics(run.parts.fresh_state().variables)
    assert run.evaluate()["loss"] < before["loss"]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(run.state.params))


SEQUENTIAL = """
import flax.linen as nn, numpy as np, optax, jaxnets
x = np.random.default_rng(0).random((200, 20), dtype=np.float32)
y = np.random.default_rng(1).integers(0, 10, 200)
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(10)])
run = jaxnets.fit(model, (x, y), epochs=2, batch_size=32, optimizer=optax.sgd(0.01, momentum=0.9), progress="none")
scores, classes = run.evaluate(), run.predict(x)
"""


def test_a_sequential_network_is_a_few_lines():
    found = {}
    exec(SEQUENTIAL, found)
    assert len(SEQUENTIAL.split("\n")) <= 12
    run, same = found["run"], MLP(widths=(64, 64), outputs=10)
    assert run.parts.parameters == sum(leaf.size for leaf in jax.tree.leaves(run.params)) == 6154
    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(same.init, jax.random.key(0), found["x"]))) == 6154
    assert set(found["classes"]) <= set(range(10))
    assert {"loss", "accuracy"} <= set(found["scores"])


@pytest.mark.slow
def test_a_run_directory_takes_modules_with_dtypes_and_functions_in_their_fields(data, tmp_path):
    for model in (Field(), nn.Sequential([nn.Dense(6, dtype=jnp.bfloat16), nn.relu, nn.Dense(3)])):
        where = tmp_path / type(model).__name__
        run = fitted(model, data, run_dir=where)
        again = fitted(model, data, run_dir=where)
        np.testing.assert_array_equal(*(jax.tree.leaves(r.state.params)[0] for r in (run, again)))


@pytest.mark.slow
def test_dropout_and_batch_statistics_are_those_of_a_hand_written_loop(data):
    run = fitted(Training(), data, steps=4, batch_size=88, optimizer=optax.sgd(0.1))
    state = run.parts.fresh_state()
    params, stats, x = (
        state.params,
        state.model_state["batch_stats"],
        whole_batch(run),
    )

    def loss(params, stats):
        variables = {"params": params, "batch_stats": stats}
        logits, new = Training().apply(variables, x, training=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(data[1])).mean(), new["batch_stats"]

    for _ in range(4):
        grads, stats = jax.grad(loss, has_aux=True)(params, stats)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    for found, wanted in zip(
        jax.tree.leaves((run.state.params, run.state.model_state["batch_stats"])),
        jax.tree.leaves((params, stats)),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_custom_loss_and_metrics_are_means_over_the_examples(data):
    def squared(outputs, batch):
        return jnp.square(outputs - jax.nn.one_hot(batch["targets"], 3)).sum(axis=-1)

    def second(outputs, batch):
        return jnp.argsort(outputs)[:, -2] == batch["targets"]

    run = fitted(nn.Dense(3), data, loss=squared, metrics={"second": second}, eval_batch_size=32)
    logits, hot = run.parts.predictor(run.variables, {"inputs": data[0]}), np.eye(3)[data[1]]
    found = run.evaluate()
    assert found["loss"] == pytest.approx(np.square(logits - hot).sum(-1).mean(), rel=1e-5)
    assert found["second"] == pytest.approx((np.argsort(logits)[:, -2] == data[1]).mean())
    assert {"loss", "second"} <= run.history.records[0].keys()
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == data[1]).mean())


def test_several_outputs_reach_the_loss(data):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {"first": nn.Dense(3)(x), "second": nn.Dense(1)(x)}

    def both(outputs, batch):
        labels = optax.softmax_cross_entropy_with_integer_labels(outputs["first"], batch["targets"])
        return labels + jnp.square(outputs["second"][:, 0])

    run = fitted(Two(), data, loss=both, steps=30)
    assert run.evaluate()["loss"] < run.history.records[0]["loss"]
    assert run.predict(data[0]).shape == (88,)


@pytest.mark.slow
def test_class_weights_are_those_of_a_weighted_mean(data):
    _x, y = data
    weights = np.array([1.0, 5.0, 0.5])
    run = fitted(nn.Dense(3), data, class_weight={1: 5.0, 2: 0.5}, steps=1, batch_size=88, optimizer=optax.sgd(0.5))
    start = run.parts.fresh_state().params
    inputs = whole_batch(run)

    def loss(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            nn.Dense(3).apply({"params": params}, inputs), jnp.asarray(y)
        )
        return (losses * weights[y]).sum() / weights[y].sum()

    wanted = jax.tree.map(lambda p, g: p - 0.5 * g, start, jax.grad(loss)(start))
    np.testing.assert_allclose(run.state.params["kernel"], wanted["kernel"], rtol=1e-5, atol=1e-6)
    plain = fitted(nn.Dense(3), data, class_weight={0: 2, 1: 2, 2: 2}, steps=3)
    np.testing.assert_allclose(
        plain.state.params["kernel"], fitted(nn.Dense(3), data, steps=3).state.params["kernel"], atol=1e-6
    )
    balanced = fitted(nn.Dense(3), data, class_weight="balanced", steps=1).parts.task.class_weight
    np.testing.assert_allclose(balanced, 88 / (3 * np.bincount(y)), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_of_ranks_equal_those_of_scikit_learn(classes, one_device):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(101, 4)).astype(np.float32).round(1)
    y = (x @ rng.normal(size=(4, classes)) + rng.normal(size=(101, classes))).argmax(1)
    measures = {"f1": F1(), "micro": F1("micro"), "auroc": AUROC(), "ap": AveragePrecision(), "ece": CalibrationError()}
    run = fitted(nn.Dense(classes), (x, y), metrics=measures, eval_batch_size=16, test=(x, y))
    logits = run.parts.predictor(run.variables, {"inputs": x}).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    guesses = logits.argmax(1)
    found = run.evaluate()
    alone = assemble(run.parts.experiment, run.parts.dataset, mesh=one_device).evaluator
    with jax.set_mesh(one_device):
        on_one = alone.metrics(jax.device_get(run.variables))
    assert {name: on_one[name] for name in measures} == pytest.approx(
        {name: found[name] for name in measures}, abs=1e-6
    )
    assert found["f1"] == pytest.approx(metrics.f1_score(y, guesses, average="macro"), abs=1e-6)
    assert found["micro"] == pytest.approx(metrics.f1_score(y, guesses, average="micro"), abs=1e-6)
    hot = np.eye(classes)[y]
    if classes == 2:
        assert found["auroc"] == pytest.approx(metrics.roc_auc_score(y, logits[:, 1] - logits[:, 0]), abs=1e-6)
        assert found["ap"] == pytest.approx(metrics.average_precision_score(y, logits[:, 1] - logits[:, 0]), abs=1e-6)
    else:
        assert found["auroc"] == pytest.approx(metrics.roc_auc_score(y, p, multi_class="ovr"), abs=1e-6)
        assert found["ap"] == pytest.approx(metrics.average_precision_score(hot, p, average="macro"), abs=1e-6)
    top, bins = p.max(1), np.clip(np.ceil(p.max(1) * 15).astype(int) - 1, 0, 14)
    ece = sum((bins == b).mean() * abs((guesses == y)[bins == b].mean() - top[bins == b].mean()) for b in set(bins))
    assert found["ece"] == pytest.approx(ece, abs=1e-6)


@pytest.mark.slow
def test_a_metric_chooses_the_best_checkpoint(data, tmp_path):
    run = fitted(
        nn.Dense(3), data, metrics={"f1": F1()}, keep=Keep(best="f1"), eval_every=2, run_dir=tmp_path / "run", steps=6
    )
    assert "f1" in run.evaluate()


def test_errors_about_misfits_name_the_remedy(data):
    for options, said in (
        (
            {"loss": lambda outputs, batch: outputs.mean()},
            "loss returns an array of shape []; return one value for each",
        ),
        ({"loss": lambda outputs, batch: outputs}, "loss returns an array of shape [32, 3]; return one value"),
        ({"metrics": {"m": lambda outputs, batch: jnp.ones(3)}}, "metrics['m'] returns an array of shape [3]"),
        ({"class_weight": {7: 1.0}}, "class_weight has 7, which is not a class"),
        ({"class_weight": "even"}, "class_weight is a dict or 'balanced'"),
        ({"class_weight": {1: -1.0}}, "is a number, at least 0"),
        ({"callbacks": []}, "which other libraries have"),
        ({"max_epochs": 3}, "use epochs="),
        ({"validation_split": 0.1}, "use validation="),
    ):
        with pytest.raises(UsageError) as error:
            fitted(nn.Dense(3), data, **options)
        assert said in str(error.value)
    with pytest.raises(UsageError, match="class_weight is for classes"):
        fitted(nn.Dense(1), (data[0], data[0][:, 0]), test=(data[0], data[0][:, 0]), class_weight={0: 1.0})
    with pytest.raises(DataError, match="classification needs"):
        fitted(nn.Dense(2), data)


def narrow(outputs, batch):
    return outputs @ jnp.ones(7)


def apart(outputs, batch):
    return jnp.square(outputs - batch["targets"]).mean(axis=-1)


@pytest.mark.parametrize(
    ("function", "said"),
    [(narrow, "contracting dimensions"), (apart, "rank_promotion"), (lambda o, b: b["labels"], "KeyError: 'labels'")],
)
def test_a_function_of_the_user_that_raises_is_named_and_not_the_model(data, function, said):
    """`apart` raises under `jax_numpy_rank_promotion`, which the tests set."""
    numbers = (data[0], data[0][:, 0])
    for what, options in (("loss", {"loss": function}), ("metrics['m']", {"metrics": {"m": function}})):
        with pytest.raises(UsageError) as error:
            fitted(nn.Dense(1), numbers, test=numbers, **options)
        assert f"{what} is the function {function.__name__}(outputs, batch), which raises" in str(error.value)
        assert said in str(error.value)
        assert "outputs float32[32, 1]" in str(error.value)
        assert "targets float32[32]" in str(error.value)


def test_more_outputs_than_classes_are_noted_and_integers_name_the_remedy(data):
    with pytest.warns(DataWarning, match="gives 5 outputs, but 'arrays' has 3 classes"):
        fitted(nn.Dense(5), data)

    class Embedded(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(3)(nn.Embed(10, 4)(tokens).mean(axis=1))

    tokens = np.random.default_rng(0).integers(0, 10, (88, 6))
    with pytest.raises(DataError, match=r"standardised as quantities.*input_kind='tokens'"):
        fitted(Embedded(), (tokens, data[1]), test=(tokens, data[1]))
    kept = jaxnets.from_arrays(tokens, data[1], input_kind="tokens")
    assert "loss" in jaxnets.fit(Embedded(), kept, steps=2, progress="none").evaluate()
    with pytest.raises(DataError, match="takes whole numbers from 0"):
        jaxnets.from_arrays(tokens - 5, data[1], input_kind="tokens")


@pytest.mark.parametrize("name", ["bfloat16", "bf16-mixed", "mixed_bfloat16"])
def test_number_formats_accept_the_names_of_other_libraries(data, name):
    assert fitted(nn.Dense(3), data, precision=name, steps=1).parts.recipe.precision.compute == "bfloat16"


def test_metrics_do_not_change_a_custom_training_step_and_a_loss_for_it_is_refused(data):
    x, y = data[0], (data[1] > 0).astype(int)
    task = PerceptronRule(model=Perceptron())
    first = {"first": lambda outputs, batch: outputs.reshape(len(outputs), -1)[:, 0]}
    plain, measured = (fitted(task, (x, y), test=(x, y), **given) for given in ({}, {"metrics": first}))
    for found, wanted in zip(jax.tree.leaves(measured.state.params), jax.tree.leaves(plain.state.params), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert measured.evaluate().keys() == plain.evaluate().keys() | {"first"}
    with pytest.raises(UsageError, match="PerceptronRule has a training step of its own, which has no place for loss"):
        fitted(task, (x, y), test=(x, y), loss=first["first"])


def test_unknown_outputs_are_measured_only_by_the_users_functions(data):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {"a": nn.Dense(2)(x), "b": nn.Dense(1)(x)}

    def loss(outputs, batch):
        return jnp.square(outputs["b"][:, 0] - batch["targets"])

    numbers = (data[0], data[0][:, :1])
    assert fitted(Two(), numbers, test=numbers, loss=loss).evaluate().keys() == {"loss", "examples"}


def test_targets_of_any_shape_are_passed_to_the_loss_unchanged():
    """Tokens [N, T], masks [N, H, W], and floats that are asked for by kind; nothing is scaled or counted."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, (40, 6))

    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(9)(nn.Embed(9, 8)(x))

    def cross_entropy(outputs, batch):
        assert batch["targets"].dtype == jnp.int32
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["targets"]).mean(-1)

    data = from_arrays(tokens, tokens, input_kind="tokens", kind="any")
    run = jaxnets.fit(Tokens(), data, loss=cross_entropy, epochs=2, progress="none")
    logits = np.array(Tokens().apply(run.variables, data.test["inputs"].astype(np.int32)))
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(logits, data.test["targets"][..., None], -1).mean()
    assert run.evaluate()["loss"] == pytest.approx(wanted, rel=1e-5)
    assert {"loss", "gradient_norm"} <= set(run.history.metrics()) <= {"loss", "gradient_norm", "learning_rate"}
    images = rng.normal(size=(40, 4, 4, 2)).astype(np.float32)

    def pixels(outputs, batch):
        return jnp.square(outputs[..., 0] - batch["targets"]).mean((1, 2))

    masked = jaxnets.fit(nn.Dense(1), (images, images[..., 0] > 0), loss=pixels, epochs=2, progress="none")
    assert masked.parts.dataset.card.target_kind == "any"
    assert masked.predict(images[:2]).shape == (2, 4, 4, 1)


def test_targets_of_any_shape_without_a_loss_are_refused():
    x = np.zeros((20, 3, 2), np.float32)
    with pytest.raises(UsageError, match="give one, fit"):
        jaxnets.fit(nn.Dense(2), from_arrays(x, x, kind="any"), epochs=1, progress="none")
