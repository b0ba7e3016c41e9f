"""Experts in the place of an MLP: routing, what it tells, and the losses made of it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_close, leaves

from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.types import Mean
from jaxnets.data import Text
from jaxnets.models import Experts, LanguageModel, Sampling, generate
from jaxnets.models.mixture_of_experts import COLLECTION, MixtureOfExperts
from jaxnets.optim import AdamW
from jaxnets.runs.train import train
from jaxnets.steps.recipe import Recipe
from jaxnets.tasks import NextToken

DENSE, GROUPED = Experts(5, products="dense"), Experts(5, products="grouped")
LAYERS = {
    "dense": MixtureOfExperts(DENSE, 7, "swiglu", start=(0.5, 0.5)),
    "grouped": MixtureOfExperts(GROUPED, 7, "swiglu", start=(0.5, 0.5)),
    "biased": MixtureOfExperts(Experts(4, 3, products="grouped", weights="all"), 6, biased=True, start=(0.5, 0.5)),
    "switch": MixtureOfExperts(Experts(3, 1, "capacity", 0.7, weights="all"), 6, biased=True, start=(0.5, 0.5)),
    "gshard": MixtureOfExperts(Experts(5, 2, "capacity", 0.6), 7, "swiglu", start=(0.5, 0.5)),
}


@functools.cache
def make(layer, shape=(3, 9, 4)):
    x = jax.random.normal(jax.random.key(1), shape)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    # Routers that choose, and biases that are felt.
    return x, jax.tree.map(lambda a: a * 40 if a.shape == (4, layer.experts.count) else a + 0.1, variables)


def plain(layer, params, x):
    """One token after another; also the share of choices dropped and both losses, of each sequence."""
    e, p = layer.experts, jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x = np.asarray(x, np.float64)
    out, told = np.zeros_like(x), {"balance": [], "router_z": [], "dropped": []}
    places = math.ceil(e.capacity * e.per_token * x.shape[1] / e.count) if e.routing == "capacity" else np.inf
    for b, sequence in enumerate(x):
        used, chose, means, squares, dropped = np.zeros(e.count), np.zeros(e.count), np.zeros(e.count), [], 0
        for t, token in enumerate(sequence):
            logits = token @ p["router"]["kernel"]
            probability = np.exp(logits) / np.exp(logits).sum()
            means += probability / len(sequence)
            squares.append(np.log(np.exp(logits).sum()) ** 2)
            best = np.argsort(-probability)[: e.per_token]
            for j in best:
                chose[j] += 1 / (len(sequence) * e.per_token)
                if used[j] >= places:
                    dropped += 1
                    continue
                used[j] += 1
                weight = probability[j] / (probability[best].sum() if e.weights == "chosen" else 1)
                h = token @ p["up_kernel"][j] + (p["up_bias"][j] if layer.biased else 0)
                if layer.mlp == "swiglu":
                    gate = token @ p["gate_kernel"][j]
                    h = h * gate / (1 + np.exp(-gate))
                else:
                    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
                out[b, t] += weight * (h @ p["down_kernel"][j] + (p["down_bias"][j] if layer.biased else 0))
        told["balance"].append(e.count * (chose * means).sum())
        told["router_z"].append(np.mean(squares))
        told["dropped"].append(dropped / (len(sequence) * e.per_token))
    return out, told


@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_and_statistics_equal_a_loop_over_tokens(kind):
    layer = LAYERS[kind]
    x, variables = make(layer)
    y, told = jax.jit(lambda v, x: layer.apply(v, x, mutable=[COLLECTION]))(variables, x)
    want, wanted = plain(layer, variables["params"], x)
    np.testing.assert_allclose(y, want, atol=1e-5)
    assert told[COLLECTION].keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(told[COLLECTION][name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    if layer.experts.routing == "capacity":
        assert 0 < np.mean(wanted["dropped"]) < 1
    assert COLLECTION not in variables


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_equal_finite_differences_and_reach_router_and_chosen_experts(kind):
    layer = LAYERS[kind]
    x, variables = make(layer, (2, 6, 4))
    weigh = np.asarray(jax.random.normal(jax.random.key(3), x.shape))
    ours = leaves(jax.jit(jax.grad(lambda p: (layer.apply({"params": p}, x) * weigh).sum()))(variables["params"]))
    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    way = jax.tree.map(lambda a: np.random.default_rng(a.size).normal(size=a.shape), variables["params"])
    for path, _ in paths:
        # The loop's slope in float64 along one direction of each array, the others staying.
        def moved(by, path=path):
            shift = jax.tree_util.tree_map_with_path(
                lambda at, a, w: np.asarray(a, np.float64) + (by * w if at == path else 0), variables["params"], way
            )
            return (plain(layer, shift, x)[0] * weigh).sum()

        slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
        name = jax.tree_util.keystr(path)
        got = (ours[name] * leaves(way)[name]).sum()
        assert got == pytest.approx(slope, rel=2e-5, abs=2e-5), name
        assert np.abs(ours[name]).max() > 0, name
    chosen = jax.lax.top_k(x @ variables["params"]["router"]["kernel"], layer.experts.per_token)[1]
    if layer.experts.routing == "dropless":
        for name in ("up", "down"):
            reached = np.abs(ours[f"['{name}_kernel']"]).max(axis=(1, 2)) > 0
            np.testing.assert_array_equal(np.flatnonzero(reached), np.unique(chosen))


@pytest.mark.parametrize(("count", "per_token", "length"), [(1, 1, 5), (5, 2, 7), (6, 3, 1)])
def test_all_implementations_give_the_same_if_no_token_is_dropped(count, per_token, length):
    common = {"count": count, "per_token": per_token, "weights": "all"}
    x = jax.random.normal(jax.random.key(length), (2, length, 4))
    roads = [Experts(**common, products="dense"), Experts(**common, products="grouped"),
             Experts(**common, routing="capacity", capacity=count / per_token)]  # fmt: skip
    layers = [MixtureOfExperts(road, 6, "swiglu", biased=True, start=(0.5, 0.5)) for road in roads]
    variables = jax.jit(layers[0].init)(jax.random.key(0), x)

    def both(layer):
        def score(v):
            y, told = layer.apply(v, x, mutable=[COLLECTION])
            return (y**2).sum(), (y, told)

        return jax.jit(jax.grad(score, has_aux=True))(variables)

    first, *others = (both(layer) for layer in layers)
    for other in others:
        assert_close(other, first, atol=1e-5)


@pytest.mark.slow
def test_one_expert_is_the_plain_mlp():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (2, 7)), jnp.int32)
    model = LanguageModel(vocab_size=29, layers=2, width=12, heads=3, mlp_dim=10, length=8)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    params = dict(variables["params"])
    for index in range(2):
        block = dict(params[f"block_{index}"])
        mixture = {"router": {"kernel": jnp.ones((12, 1))}}
        for name in ("up", "down"):
            mixture |= {f"{name}_{kind}": a[None] for kind, a in block.pop(name).items()}
        params[f"block_{index}"] = {**block, "mixture": mixture}
    for routing in ("dropless", "capacity"):
        other = model.clone(experts=Experts(1, 1, routing))
        got, want = jax.jit(other.apply)({"params": params}, tokens), jax.jit(model.apply)(variables, tokens)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_tokens_in_another_order_give_results_in_that_order():
    for kind in ("dense", "grouped"):
        x, variables = make(LAYERS[kind])
        order = np.random.default_rng(0).permutation(9)
        serve = jax.jit(LAYERS[kind].apply)
        y, moved = serve(variables, x), serve(variables, x[:, order])
        np.testing.assert_allclose(moved, y[:, order], atol=1e-6)


def test_with_capacity_later_tokens_do_not_change_earlier_ones():
    layer = LAYERS["gshard"]
    x, variables = make(layer)
    changed = x.at[:, 6].set(-x[:, 6])
    serve = jax.jit(layer.apply)
    np.testing.assert_array_equal(serve(variables, x)[:, :6], serve(variables, changed)[:, :6])


KINDS = {
    "mixtral": Experts(4),
    "grouped": Experts(4, products="grouped"),
    "switch": Experts(3, 1, "capacity", weights="all"),
}
MODEL = {"vocab_size": 29, "layers": 2, "width": 12, "heads": 3, "mlp_dim": 10, "length": 16, "mlp": "swiglu",
         "biases": "none", "norm": "rms", "positions": "rotary"}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        pytest.param("mixtral", "unrolled", marks=pytest.mark.slow),
        ("grouped", "scanned"),
        ("switch", "scanned"),
        pytest.param("mixtral", "scanned", marks=pytest.mark.slow),
        pytest.param("grouped", "unrolled", marks=pytest.mark.slow),
        pytest.param("switch", "unrolled", marks=pytest.mark.slow),
    ],
)
def test_in_a_model_with_cache_scan_remat_and_bfloat16(kind, blocks):
    model = LanguageModel(**MODEL, experts=KINDS[kind], blocks=blocks, remat="blocks")
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (2, 9)), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    assert variables.keys() == {"params"}
    logits, told = jax.jit(lambda v: model.apply(v, tokens, mutable=[COLLECTION]))(variables)
    shapes = {tuple(leaf.shape) for leaf in jax.tree.leaves(told)}
    assert shapes == ({(2, 2)} if blocks == "scanned" else {(2,)})
    half = jax.jit(model.apply)(jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables), tokens)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, logits, atol=0.05)
    task = NextToken(model=model)
    batch = {"inputs": tokens, "targets": tokens, "mask": jnp.ones(2)}
    gradients = jax.jit(jax.grad(lambda v: task.loss(v, batch, jax.random.key(0), True)[0].value))(variables)
    silent = [path for path, g in leaves(gradients).items() if not np.abs(g).max() > 0]
    assert not silent
    if kind != "switch":
        cache, pieces, go_on = model.empty_cache(2, 12), [], jax.jit(model.apply)
        for part in (tokens[:, :4], tokens[:, 4:8], tokens[:, 8:]):
            said, cache = go_on(variables, part, cache=cache)
            pieces.append(said)
        np.testing.assert_allclose(jnp.concatenate(pieces, 1), logits, atol=1e-5)
    written = generate(model, variables, tokens[:, :3], 4, key=jax.random.key(0), sampling=Sampling(temperature=0))
    assert written.shape == (2, 4)


@pytest.mark.slow
def test_scanned_layers_report_the_statistics_of_unrolled_ones():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (2, 9)), jnp.int32)
    model = LanguageModel(**MODEL, experts=Experts(4))
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    blocks = jax.tree.map(lambda *a: jnp.stack(a), *(params[f"block_{i}"] for i in range(2)))
    stacked = {**{name: a for name, a in params.items() if not name.startswith("block")}, "blocks": blocks}
    batch = {"inputs": tokens, "targets": tokens, "mask": jnp.asarray([1.0, 0.0])}
    one = jax.jit(NextToken(model=model).metrics)({"params": params}, batch)
    other = jax.jit(NextToken(model=model.clone(blocks="scanned")).metrics)({"params": stacked}, batch)
    assert one.keys() == {"loss", "accuracy", "balance", "router_z", "dropped"}
    for name in one:
        assert float(one[name].value) == pytest.approx(float(other[name].value), abs=1e-6)


@pytest.mark.slow
def test_the_loss_adds_the_routers_losses_and_masked_rows_count_for_nothing():
    model = LanguageModel(**MODEL, experts=Experts(4))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (4, 9)), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    batch = {"inputs": tokens, "targets": tokens[::-1], "mask": jnp.asarray([1.0, 1.0, 1.0, 0.0])}
    task, key = NextToken(model=model, balance=0.3, router_z=0.2), jax.random.key(0)
    losses = jax.jit(task.loss, static_argnums=3)
    loss, aux = losses(variables, batch, key, True)
    # Two layers, whose mean is told.
    extra = 2 * (0.3 * aux.metrics["balance"].value + 0.2 * aux.metrics["router_z"].value)
    assert float(loss.value) == pytest.approx(float(aux.metrics["cross_entropy"].value + extra), rel=1e-5)
    assert float(jax.jit(task.metrics)(variables, batch)["loss"].value) == pytest.approx(
        float(aux.metrics["cross_entropy"].value), rel=1e-5
    )
    values = {name: float(mean.value) for name, mean in aux.metrics.items()}
    assert task.derive(values)["perplexity"] == pytest.approx(math.exp(values["cross_entropy"]))
    short = {name: value[:3] for name, value in batch.items()}
    assert float(losses(variables, short, key, True)[0].value) == pytest.approx(float(loss.value), rel=1e-5)
    plain_task = NextToken(model=LanguageModel(**MODEL))
    said = jax.eval_shape(lambda: plain_task.loss(plain_task.init(key, batch), batch, key, True)[1])
    assert said.metrics.keys() == {"loss", "accuracy"}
    assert isinstance(said.metrics["loss"], Mean)


@pytest.mark.slow
def test_micro_batches_give_the_gradient_of_the_whole_batch():
    from jaxnets.training.initial import create_state

    task = NextToken(model=LanguageModel(**MODEL, experts=Experts(4, 2, "capacity", 0.8)))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 29, (4, 9)), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens, "mask": jnp.asarray([1.0, 1.0, 1.0, 0.0])}
    norms = []
    for count in (1, 2):
        recipe = Recipe(AdamW().build(10), micro_batches=count)
        step = task.make_step(recipe)
        metrics = jax.jit(lambda step=step, recipe=recipe: step(create_state(task, recipe, batch), batch)[1])()
        norms.append([float(metrics[name].value) for name in ("loss", "gradient_norm", "dropped", "balance")])
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)


@pytest.mark.slow
def test_training_balances_the_experts(tmp_path, one_device):
    (tmp_path / "rhyme.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    model = LanguageModel(layers=1, heads=2, width=16, mlp_dim=16, length=16, experts=Experts(4))
    ends = {}
    for balance in (0.0, 0.1):
        run = Experiment(
            task=NextToken(model=model, balance=balance), data=Text(str(tmp_path / "rhyme.txt"), length=16),
            optimizer=AdamW(1e-2), steps=120, batch_size=16,
        )  # fmt: skip
        assert from_data(to_data(run)) == run
        ends[balance] = train(run, mesh=one_device, progress="none").history.last("test")
    assert 1.0 <= ends[0.1]["balance"] < min(1.1, ends[0.0]["balance"])
    assert ends[0.1]["loss"] < 1.0
    assert ends[0.1]["dropped"] == 0


def test_parameter_counts():
    mixtral = LanguageModel(
        vocab_size=32_000, layers=32, width=4096, heads=32, kv_heads=8, mlp_dim=14_336, positions="rotary", norm="rms",
        mlp="swiglu", biases="none", embedding="untied", experts=Experts(8), blocks="scanned",
    )  # fmt: skip
    shapes = jax.eval_shape(lambda: mixtral.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 46_702_792_704  # Mixtral 8x7B, as released


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": -1}, "count is at least 0"),
        ({"count": 2, "per_token": 3}, "per_token is 1 to count 2, got 3"),
        ({"count": 4, "capacity": 0.0}, "capacity is positive"),
        ({"count": 4, "per_token": 1}, "the router learns nothing; set weights to 'all'"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Experts(**fields)
    with pytest.raises(ValueError, match="router_z is at least 0"):
        NextToken(model=LanguageModel(**MODEL), router_z=-1.0)
