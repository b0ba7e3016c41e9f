"""Training rules: what decays, which step a schedule is at, what is averaged, and how variances are taken."""

import dataclasses
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnets
from jaxnets import diagnose, models, optim, tasks
from jaxnets.core.errors import DataWarning, UsageError
from jaxnets.data import from_arrays
from jaxnets.models import norms
from jaxnets.ops.roles import weights
from jaxnets.runs.checks import check_decay
from jaxnets.steps.recipe import Recipe
from jaxnets.steps.step import with_average
from jaxnets.training.initial import create_state

IMAGE, ROW, TOKENS = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2, 3)), jnp.zeros((2, 8), jnp.int32)
GRAPH = models.Graph(
    jnp.zeros((1, 5, 3)), jnp.zeros((1, 4, 2), jnp.int32), jnp.ones((1, 5), bool), jnp.ones((1, 4), bool)
)
SMALL = {"vocab_size": 9, "layers": 2, "width": 8, "heads": 2, "length": 8}
EXPERTS = models.Experts(2)
NORM, BIAS = ("bias", "scale"), ("bias",)
# Every model, an input, and the names of the parameters that do not decay.
MODELS = [
    (models.MLP(widths=(4,), norm="batch"), ROW, NORM),
    (models.CNN(), IMAGE, BIAS),
    (models.GAT(), GRAPH, BIAS),
    (models.GCN(), GRAPH, BIAS),
    (models.GraphSAGE(), GRAPH, BIAS),
    (models.GIN(), GRAPH, (*NORM, "epsilon")),
    (models.RBF(), ROW, ("bias", "centres", "log_widths")),
    (models.RCNN(), IMAGE, NORM),
    (models.RNN(cell="gru"), jnp.zeros((2, 5, 3)), ("bias", "candidate_bias")),
    (models.RNN(cell="lstm"), jnp.zeros((2, 5, 3)), BIAS),
    (models.VAE(shape=(3,)), ROW, BIAS),
    (models.VQVAE(shape=(32, 32, 3)), IMAGE, ("bias", "book")),
    (models.Autoencoder(shape=(3,)), ROW, BIAS),
    (models.ConvAutoencoder(shape=(32, 32, 3)), IMAGE, BIAS),
    (models.CapsNet(), jnp.zeros((2, 36, 36, 1)), BIAS),
    (models.CifarResNet(), IMAGE, NORM),
    (models.CoAtNet(), IMAGE, (*NORM, "relative")),
    (
        models.ConvLSTMForecaster(),
        jnp.zeros((2, 4, 16, 16, 1)),
        ("bias", "peephole_forget", "peephole_input", "peephole_output"),
    ),
    (models.ConvNeXt(), IMAGE, (*NORM, "layer_scale")),
    (models.DCGANCritic(), IMAGE, NORM),
    (models.DCGANGenerator(shape=(32, 32, 3)), jnp.zeros((2, 8)), NORM),
    (models.Hopfield(), ROW, BIAS),
    (
        models.HybridLanguageModel(vocab_size=9),
        TOKENS,
        ("bias", "scale", "decay", "keep_bias", "take_bias", "taps_bias"),
    ),
    (models.LanguageModel(**SMALL, positions="learned", biases="all"), TOKENS, (*NORM, "positions")),
    (
        models.LanguageModel(**SMALL, blocks="scanned", experts=EXPERTS, biases="all", positions="rotary"),
        TOKENS,
        (*NORM, "up_bias", "down_bias"),
    ),
    (models.AirBench(), IMAGE, NORM),
    (models.LeNet5(), jnp.zeros((2, 32, 32, 1)), BIAS),
    (models.NeuralODE(), ROW, BIAS),
    (models.PatchPredictor(), (IMAGE, jnp.zeros((2, 64), jnp.int32)), (*NORM, "missing", "positions")),
    (models.Perceptron(), ROW, BIAS),
    (models.ResNet(), jnp.zeros((2, 64, 64, 3)), NORM),
    (models.ResNet9(), IMAGE, NORM),
    (models.TransformerEncoder(vocab_size=9, pool="token", positions="learned"), TOKENS, (*NORM, "places", "token")),
    (models.Seq2SeqTransformer(vocab_size=9, source_vocab_size=9), models.Pair(TOKENS, TOKENS), NORM),
    (models.UNet(), IMAGE, NORM),
    (models.ViT(pool="token"), IMAGE, (*NORM, "token", "positions")),
]


def test_the_list_of_models_is_complete():
    kinds = {name for name in models.__all__ if isinstance(getattr(models, name), type)}
    # LoRA and Layered have no layers of their own; tests/models/test_lora.py says what of it decays.
    not_modules = {"Decoder", "Experts", "Graph", "Layered", "Layers", "LoRA", "Pair", "Sampling"}
    assert {type(model).__name__ for model, _, _ in MODELS} == kinds - not_modules


@pytest.mark.parametrize(("model", "given", "left"), MODELS, ids=[type(m).__name__ for m, _, _ in MODELS])
def test_which_parameters_decay(model, given, left):
    if isinstance(model, models.NeuralODE):
        pytest.importorskip("diffrax")
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *(given if type(given) is tuple else (given,))))[
        "params"
    ]
    found, decays = set(), set()
    for (path, leaf), decay in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(weights(params)), strict=True
    ):
        (decays if decay else found).add(path[-1].key)
        assert decay or leaf.ndim < 2 or path[-1].key in left
    assert found <= set(left)
    assert not found & decays
    assert all("kernel" in n or n in {"embedding", "recurrent", "taps", "transformations", "patterns",
                                      "attention_source", "attention_target"} for n in decays)  # fmt: skip


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize(("model", "given"), [row[:2] for row in MODELS], ids=[type(m).__name__ for m, _, _ in MODELS])
def test_every_model_has_products_with_its_hessian(model, given):
    """No operation lacks a derivative of its derivative; shapes alone, nothing is computed."""
    if isinstance(model, models.NeuralODE):
        pytest.importorskip("diffrax")
    inputs = given if type(given) is tuple else (given,)
    keys = {name: jax.random.key(0) for name in ("params", "dropout", "noise", "sample", "latent")}
    variables = jax.eval_shape(lambda: model.init(keys, *inputs))

    def product(variables):
        def loss(params):
            outputs = jax.tree.leaves(model.apply({**variables, "params": params}, *inputs, rngs=keys))
            return sum(jnp.square(one).sum() for one in outputs if jnp.issubdtype(one.dtype, jnp.floating))

        return diagnose.hessian_product(loss, variables["params"], variables["params"])

    found = jax.eval_shape(product, variables)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, variables["params"])


@pytest.mark.parametrize("kind", [optim.AdamW, optim.SGD])
@pytest.mark.slow
def test_scanned_and_unrolled_layers_train_alike_with_decay(kind):
    tokens = jax.random.randint(jax.random.key(1), (2, 6), 0, 9)
    unrolled, scanned = (models.LanguageModel(**SMALL, biases="all", blocks=b) for b in ("unrolled", "scanned"))
    params = unrolled.init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda p: p + 0.3, params)

    def stacked(params):
        blocks = [params[f"block_{i}"] for i in range(2)]
        rest = {name: tree for name, tree in params.items() if not name.startswith("block_")}
        return {**rest, "blocks": jax.tree.map(lambda *a: jnp.stack(a), *blocks)}

    rule = kind(learning_rate=0.01, weight_decay=0.5, schedule=optim.Constant()).build(10)

    def trained(model, params):
        @jax.jit
        def step(params, state):
            gradient = jax.grad(lambda p: (jax.nn.log_softmax(model.apply({"params": p}, tokens))[..., 0]).mean())(
                params
            )
            updates, state = rule.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        state = rule.init(params)
        for _ in range(3):
            params, state = step(params, state)
        return params

    a, b = stacked(trained(unrolled, params)), trained(scanned, stacked(params))
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(p, q, rtol=2e-4, atol=2e-5)


class Own(nn.Module):
    """Parameters of a user's own, in scanned layers."""

    @nn.compact
    def __call__(self, x, *, train=False):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                w = self.param("w", nn.initializers.normal(), (4, 4))
                lift = self.param("lift", nn.initializers.normal(), (4, 4))
                gain, b = self.param("gain", nn.initializers.ones, (4,)), self.param("b", nn.initializers.ones, (4,))
                return x @ w @ lift * gain[None] + b[None], None

        scan = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return nn.MultiHeadDotProductAttention(2, qkv_features=4)(scan()(x, None)[0][None])[0]


def test_a_users_own_parameters_decay_by_their_names():
    params = Own().init(jax.random.key(0), jnp.zeros((3, 4)))["params"]
    decays = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, on in jax.tree_util.tree_leaves_with_path(weights(params))
        if on
    }
    attention = {f"MultiHeadDotProductAttention_0/{name}/kernel" for name in ("query", "key", "value", "out")}
    assert decays == {"ScanLayer_0/w", *attention}
    named = weights(params, ["*/lift"])
    assert sum(jax.tree.leaves(named)) == 1
    with pytest.raises(UsageError, match=r"weight_decay_on '\*/lifts' matches no parameter"):
        weights(params, ["*/lifts"])


class OwnNet(nn.Module):
    outputs: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(1)(Own(name="own")(x))


@pytest.mark.parametrize(
    ("optimizer", "where"),
    [
        (optim.SAM(optim.AdamW()), "optimizer.optimizer"),
        (optim.Plateau(optim.Lookahead(optim.AdamW())), "optimizer.optimizer.optimizer"),
        (optim.ByDepth(optim.Later(optim.AdamW())), "optimizer.optimizer.optimizer"),
        (optim.ByPath((("own/.*", optim.AdamW()), (".*", optim.Adam()))), "optimizer['own/.*']"),
        (optim.ByPath((("own/.*", optim.Adam()), (".*", optim.AdamW()))), ""),
        (optim.SAM(optim.AdamW(weight_decay_on=("*",))), ""),
        (optim.SAM(optim.SGD()), ""),
    ],
)
def test_a_parameter_that_does_not_decay_is_named_by_an_optimizer_around_another(optimizer, where, recwarn):
    x = jnp.ones((2, 4))
    params = jax.eval_shape(OwnNet().init, jax.random.key(0), x)["params"]
    check_decay(optimizer, SimpleNamespace(params=params))
    said = [str(one.message) for one in recwarn]
    if not where:
        assert not said
        return
    assert "weight decay leaves own/ScanLayer_0/lift alone" in said[0]
    assert f"what decays in {where}.weight_decay_on" in said[0]


@pytest.mark.slow
def test_a_parameter_with_an_unknown_name_is_reported():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    with pytest.warns(DataWarning, match="weight decay leaves own/ScanLayer_0/lift alone"):
        jaxnets.fit(OwnNet(), (x, x[:, 0]), steps=1, progress="none")


# --- schedules and counts


def small_game(optimizer, **fields):
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    task = tasks.Regression(model=models.MLP(widths=())).bind(from_arrays(x, x[:, 0]).card)
    recipe = Recipe(optimizer=optimizer, **fields)
    batch = {"inputs": jnp.asarray(x[:8]), "targets": jnp.asarray(x[:8, 0]), "mask": jnp.ones(8)}
    step = jax.jit(with_average(task.make_step(recipe), recipe))
    return step, create_state(task, recipe, batch), batch


def moved(step, state, batch):
    new, metrics = step(state, batch)
    pairs = zip(jax.tree.leaves(new.params), jax.tree.leaves(state.params), strict=True)
    return float(jnp.sqrt(sum(jnp.sum((a - b) ** 2) for a, b in pairs)) / metrics["gradient_norm"].value)


def falling(step):
    return 1.0 - step / 10


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(falling),
        optax.chain(optax.scale_by_schedule(falling), optax.scale(-1.0)),
        optax.inject_hyperparams(optax.sgd)(learning_rate=falling),
        optax.masked(optax.sgd(falling), lambda p: jax.tree.map(lambda _: True, p)),
    ],
    ids=["schedule", "chain", "injected", "masked"],
)
@pytest.mark.parametrize("how", ["masked", "not finite"])
def test_a_step_that_is_left_out_advances_every_schedule(optimizer, how):
    step, state, batch = small_game(optimizer)
    bad = {**batch, "mask": jnp.zeros(8)} if how == "masked" else {**batch, "targets": jnp.full(8, jnp.nan)}
    state, _ = step(state, bad)
    state, _ = step(state, bad)
    assert moved(step, state, batch) == pytest.approx(0.8, abs=1e-5)


def test_adams_correction_and_the_average_count_updates():
    # The first update of Adam has the size of the learning rate, whatever was left out before it.
    step, state, batch = small_game(optax.adam(0.1), average=optim.EMA(0.9))
    late = state
    for _ in range(5):
        late, _ = step(late, {**batch, "mask": jnp.zeros(8)})
    assert int(late.step) == 5
    one, other = step(state, batch)[0], step(late, batch)[0]
    for a, b in zip(
        jax.tree.leaves((one.params, one.average)), jax.tree.leaves((other.params, other.average)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


class Stateful(nn.Module):
    """State of every kind that a model may keep."""

    outputs: int | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        calls = self.variable("state", "calls", lambda: jnp.zeros((), jnp.int32))
        odd = self.variable("state", "odd", lambda: jnp.zeros((), bool))
        key = self.variable("state", "key", lambda: jax.random.key(0))
        most = self.variable("state", "most", lambda: -jnp.inf)
        mean = self.variable("state", "mean", lambda: 0.0)
        if train:
            calls.value, odd.value = calls.value + 1, ~odd.value
            key.value = jax.random.split(key.value)[0]
            most.value, mean.value = jnp.maximum(most.value, x.max()), 1.0 * calls.value
        return nn.Dense(self.outputs or 1)(x)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_state_that_cannot_be_averaged_is_the_newest(micro_batches, tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    run = jaxnets.fit(Stateful(), (x, x[:, 0]), steps=5, batch_size=16, average=optim.EMA(0.9), progress="none",
                      micro_batches=micro_batches, run_dir=tmp_path / "run" if micro_batches == 1 else None)  # fmt: skip
    state, used = run.state.model_state["state"], run.variables["state"]
    assert int(used["calls"]) == int(state["calls"]) == 5 * micro_batches
    assert bool(used["odd"]) == bool(5 * micro_batches % 2)
    assert (jax.random.key_data(used["key"]) == jax.random.key_data(state["key"])).all()
    assert np.isfinite(float(used["most"]))
    # The average itself, of 1, 2, ... by its definition.
    average = 0.0
    for n in range(5):
        average += (1 - min(0.9, (1 + n) / (10 + n))) * ((n + 1) * micro_batches - average)
    assert float(used["mean"]) == pytest.approx(average, rel=1e-5)


# --- variances


@pytest.mark.parametrize(("offset", "tolerance"), [(2000.0, 1e-5), (1e6, 1e-5)])
@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_features_far_from_zero_are_normalised(kind, offset, tolerance):
    x = (offset + np.random.default_rng(0).normal(size=(64, 6, 32))).astype(np.float32)
    exact = x.astype(np.float64)
    layer, axes, eps = {
        "batch": (norms.BatchNorm(use_running_average=False, momentum=0.9), (0, 1), 1e-5),
        "layer": (norms.LayerNorm(), (2,), 1e-6),
        "group": (norms.GroupNorm(1), (1, 2), 1e-6),
    }[kind]
    want = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + eps)
    got, state = layer.init_with_output(jax.random.key(0), jnp.asarray(x))
    assert abs(np.asarray(got) - want).max() < tolerance
    if kind == "batch":
        _, new = layer.apply(state, jnp.asarray(x), mutable=["batch_stats"])
        np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * exact.var(axes), rtol=1e-5)
        np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * exact.mean(axes), rtol=1e-6)
        # The gradient is Linen's, where that is exact: near 0.
        near = jnp.asarray(x - offset, jnp.float32)
        theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, use_fast_variance=False)
        slopes = [
            jax.grad(lambda a, one=one: jnp.sin(one.apply(state, a, mutable=["batch_stats"])[0]).sum())(near)
            for one in (layer, theirs)
        ]
        np.testing.assert_allclose(*slopes, atol=1e-5)


def test_every_model_normalises_features_far_from_zero():
    from conftest import ROOT

    for path in (ROOT / "jaxnets" / "models").glob("*.py"):
        if path.name != "norms.py":
            assert not [w for w in ("nn.BatchNorm", "nn.LayerNorm", "nn.GroupNorm") if w in path.read_text()], path.name


def test_padding_nodes_do_not_change_the_statistics():
    from jaxnets.models.graph import GINLayer

    x = (2000 + np.random.default_rng(0).normal(size=(1, 12, 4))).astype(np.float32)
    x[:, 7:] = np.nan
    real = jnp.arange(12)[None] < 7
    graph = models.Graph(jnp.asarray(x), jnp.zeros((1, 1, 2), jnp.int32), real, jnp.zeros((1, 1), bool))
    layer = GINLayer(5, "batch")
    variables = layer.init(jax.random.key(0), graph, jnp.nan_to_num(graph.nodes), train=True)
    _, new = layer.apply(variables, graph, graph.nodes, train=True, mutable=["batch_stats"])
    h = x[0, :7].astype(np.float64) @ np.asarray(variables["params"]["dense_0"]["kernel"], np.float64)
    np.testing.assert_allclose(new["batch_stats"]["norm"]["var"], 0.9 + 0.1 * h.var(0), rtol=1e-3)


@pytest.mark.slow
def test_the_penalty_on_weights_of_a_graph_network_follows_the_same_rule():
    task = tasks.NodeClassification(model=models.GAT(widths=(3,), heads=2, dropout=0.0, outputs=2), l2=1.0)
    batch = {
        "inputs": GRAPH.nodes + 1.0, "edges": GRAPH.edges, "node_mask": GRAPH.node_mask, "edge_mask": GRAPH.edge_mask,
        "targets": jnp.zeros((1, 5), jnp.int32), "counted": jnp.ones((1, 5), bool), "mask": jnp.ones(1),
    }  # fmt: skip
    variables = task.init(jax.random.key(0), batch)
    with_it = task.loss(variables, batch, jax.random.key(1), True)[0].value
    without = dataclasses.replace(task, l2=0.0).loss(variables, batch, jax.random.key(1), True)[0].value
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    squares = sum(float((leaf**2).sum()) for path, leaf in leaves if path[-1].key != "bias")
    assert float(with_it - without) == pytest.approx(squares / 2, rel=1e-4)


def test_the_explained_variance_is_right_far_from_zero_too():
    x = (2000 + np.random.default_rng(0).normal(size=(400, 3))).astype(np.float32)
    task = tasks.Reconstruction(model=models.Autoencoder(widths=(4,))).bind(
        from_arrays(x, x[:, 0], standardize=False).card
    )
    batch = {"inputs": jnp.asarray(x), "mask": jnp.ones(400)}
    variables = task.init(jax.random.key(0), batch)
    values = {name: float(mean.value) for name, mean in task.metrics(variables, batch).items()}
    exact = 1 - values["loss"] / x.astype(np.float64).var()
    assert task.derive(values)["explained"] == pytest.approx(exact, rel=1e-3)
