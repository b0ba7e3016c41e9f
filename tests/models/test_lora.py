"""Low-rank adapters: the model itself at first, the merged model afterwards; only the adapters are trained."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import whole_batch

import jaxnets
from jaxnets.core.errors import UsageError
from jaxnets.data.sources.text import Text
from jaxnets.models import MLP, LanguageModel, LoRA
from jaxnets.models.generation import Sampling, generate
from jaxnets.runs.open import open_run
from jaxnets.tasks import NextToken

TOKENS = np.arange(12).reshape(2, 6) % 7


def named(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def trained(variables):
    """As if the adapters had been trained."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape) if "lora_" in str(path) else leaf,
        variables,
    )


class Attention(nn.Module):
    """Flax's own attention: `DenseGeneral` with several features, and with several axes."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x))


MODELS = {
    "flax dense": (nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3, use_bias=False)]), jnp.ones((4, 5)), ".*"),
    "a dense layer itself": (nn.Dense(3), jnp.ones((4, 5)), ".*"),
    "flax attention": (Attention(), jnp.arange(48.0).reshape(2, 3, 8) / 48, "attention/.*"),
    "axes out of order": (nn.DenseGeneral((2, 3), axis=(-1, -2)), jnp.arange(24.0).reshape(2, 3, 4) / 24, ".*"),
    "our dense": (MLP(widths=(8,), outputs=3), jnp.ones((4, 5)), "hidden_.*"),
    "unrolled": (LanguageModel(2, 16, 2, vocab_size=7, length=16), TOKENS, ".*(query|value)"),
    "scanned": (LanguageModel(2, 16, 2, vocab_size=7, length=16, blocks="scanned"), TOKENS, ".*(query|value)"),
    "remat": (LanguageModel(2, 16, 2, vocab_size=7, length=16, remat="blocks"), TOKENS, ".*(query|value)"),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_starts_as_the_model_and_ends_as_the_merged_one(name):
    model, x, at = MODELS[name]
    adapted = LoRA(model, rank=2, at=at, alpha=3.0)
    own, variables = model.init(jax.random.key(0), x), adapted.init(jax.random.key(0), x)
    added = named(variables).keys() - named(own).keys()
    assert added
    assert all(path.split("/")[-1] in ("lora_a", "lora_b") for path in added)
    assert named(own).keys() <= named(variables).keys()
    base = adapted.merged(variables)
    assert jax.tree.structure(base) == jax.tree.structure(own)
    assert np.array_equal(adapted.apply(variables, x), model.apply(base, x))
    if name not in ("scanned", "flax dense"):  # there the kernels draw other numbers
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(own), strict=True))
    variables = trained(variables)
    after = adapted.apply(variables, x)
    assert np.abs(after - model.apply(base, x)).max() > 1e-3
    np.testing.assert_allclose(after, model.apply(adapted.merged(variables), x), rtol=1e-5, atol=1e-5)


def test_one_layer_by_hand():
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    adapted = LoRA(nn.Dense(3), rank=2, alpha=6.0)
    p = jax.tree.map(np.asarray, trained(adapted.init(jax.random.key(0), x))["params"])
    expected = x @ p["kernel"] + p["bias"] + 3.0 * (x @ p["lora_a"]) @ p["lora_b"]
    np.testing.assert_allclose(adapted.apply({"params": p}, x), expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_applied_to_the_adapters_inputs_in_training_only():
    x = jnp.ones((2000, 4))
    adapted = LoRA(nn.Dense(3), rank=2, dropout=0.5)
    variables = trained(adapted.init(jax.random.key(0), x))
    quiet, base = adapted.apply(variables, x), nn.Dense(3).apply(LoRA(nn.Dense(3)).merged(zero(variables)), x)
    noisy = adapted.apply(variables, x, rngs={"dropout": jax.random.key(1)})
    assert noisy.std(axis=0).min() > 0.01
    assert np.allclose(quiet.std(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose((noisy - base).mean(axis=0), (quiet - base).mean(axis=0), rtol=0.15, atol=0.15)
    assert np.array_equal(adapted.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)["params"]["lora_b"],
                          np.zeros((2, 3)))  # fmt: skip


def zero(variables):
    return jax.tree_util.tree_map_with_path(lambda p, a: a * 0 if "lora_" in str(p) else a, variables)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ["unrolled", "scanned"])
def test_generation_with_a_cache_is_that_of_the_merged_model(blocks):
    model = LanguageModel(2, 16, 2, vocab_size=7, length=16, blocks=blocks)
    adapted = LoRA(model, rank=2, at=".*(query|value)")
    variables = trained(adapted.init(jax.random.key(0), TOKENS))
    options = {"key": jax.random.key(3), "sampling": Sampling(temperature=0)}
    written = generate(adapted, variables, TOKENS, 6, **options)
    assert np.array_equal(written, generate(model, adapted.merged(variables), TOKENS, 6, **options))
    assert not np.array_equal(written, generate(model, adapted.merged(zero(variables)), TOKENS, 6, **options))


def test_mistakes_are_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"'nope' matches no dense layer of MLP.*: hidden_0, output"):
        LoRA(MLP(widths=(8,), outputs=3), at="nope").init(jax.random.key(0), jnp.ones((4, 5)))
    with pytest.raises(UsageError, match="regular expression"):
        LoRA(MLP(), at="(")
    with pytest.raises(UsageError, match="adapters already"):
        LoRA(LoRA(MLP()))
    for field, value in {"rank": 0, "dropout": 1.0, "alpha": -1.0}.items():
        with pytest.raises(ValueError, match=field):
            LoRA(MLP(), **{field: value})
    with pytest.raises(UsageError, match="batch_dims"):
        LoRA(nn.DenseGeneral(3, batch_dims=(0,))).init(jax.random.key(0), jnp.ones((4, 5)))


class StackedOverTheSecond(nn.Module):
    """Three dense layers side by side, with the dim that numbers them in an unusual place."""

    @nn.compact
    def __call__(self, x):
        options = {"variable_axes": {"params": 1}, "split_rngs": {"params": True}, "in_axes": None, "axis_size": 3}
        return nn.vmap(nn.Dense, **options)(4)(x)


@pytest.mark.slow
def test_a_stack_over_another_dim_cannot_be_merged():
    # Shapes alone cannot tell where inputs, rank and layers are equally many (here 3).
    for inputs, rank in ((2, 2), (3, 2), (2, 3), (5, 3), (4, 1)):
        adapted = LoRA(StackedOverTheSecond(), rank=rank)
        with pytest.raises(UsageError, match="cannot merge"):
            adapted.merged(adapted.init(jax.random.key(0), jnp.ones((2, inputs))))


def test_fields_of_the_model_are_found_and_set_through_it():
    adapted = LoRA(LanguageModel(2, 16, 2, length=16), rank=2)
    assert adapted.clone(vocab_size=9).vocab_size == 9
    assert adapted.clone(rank=3).rank == 3
    assert adapted.clone() == adapted
    assert hash(adapted.clone()) == hash(adapted)
    with pytest.raises(AttributeError):
        _ = adapted.no_such_field


@pytest.mark.slow
def test_fit_trains_only_the_adapters_like_a_hand_written_loop():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 5)).astype(np.float32)
    data = (x, (x[:, 0] > 0).astype(int))
    options = {"steps": 3, "batch_size": 32, "test": (x[:8], data[1][:8]), "progress": "none"}
    base = jaxnets.fit(MLP(widths=(8,)), data, **options)
    model = LoRA(MLP(widths=(8,)), rank=2, at="hidden_0")
    run = jaxnets.fit(
        model, data, initial=base.variables, train_only=".*/lora_.*", optimizer=optax.adam(0.1), **options
    )
    # Independent: the kernels as a function of the adapters.
    kept = base.state.params
    start, inputs, targets = run.parts.fresh_state().params, whole_batch(run), jnp.asarray(data[1])

    def loss(own):
        kernel = kept["hidden_0"]["kernel"] + own["a"] @ own["b"]
        params = {**kept, "hidden_0": {**kept["hidden_0"], "kernel": kernel}}
        logits = base.parts.task.model.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    own = {"a": start["hidden_0"]["lora_a"], "b": start["hidden_0"]["lora_b"]}
    tx = optax.adam(0.1)
    state = tx.init(own)
    gradient = jax.jit(jax.grad(loss))
    for _ in range(3):
        moves, state = tx.update(gradient(own), state)
        own = optax.apply_updates(own, moves)
    np.testing.assert_allclose(run.state.params["hidden_0"]["lora_a"], own["a"], atol=1e-5)
    np.testing.assert_allclose(run.state.params["hidden_0"]["lora_b"], own["b"], atol=1e-5)
    after = named(run.state.params)
    assert all(np.array_equal(after[path], leaf) for path, leaf in named(kept).items())
    moments = [leaf for leaf in jax.tree.leaves(run.state.opt_state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in moments) == sorted([(5, 2), (5, 2), (2, 8), (2, 8)])


@pytest.fixture(scope="module")
def rhyme(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhyme.txt"
    path.write_text("the cat sat on the mat and the rat ran\n" * 60)
    return Text(str(path), length=16).open()


@pytest.mark.slow
def test_a_language_model_in_a_task_from_base_to_adapted_run(rhyme, tmp_path):
    model = LanguageModel(layers=1, width=16, heads=2, length=16)
    options = {"steps": 4, "batch_size": 8, "progress": "none", "log_every": 4, "eval_every": 4}
    base = jaxnets.fit(NextToken(model=model), rhyme, run_dir=tmp_path / "base", **options)
    task = NextToken(model=LoRA(model, rank=2, at=".*(query|value)", dropout=0.1))
    adapters = {"train_only": ".*/lora_.*", **options}
    run = jaxnets.fit(task, rhyme, initial=base.variables, run_dir=tmp_path / "adapted", **adapters)
    assert run.parts.task.model.vocab_size == len(rhyme.card.class_names)
    before, after = named(base.state.params), named(run.state.params)
    assert all(np.array_equal(after[path], leaf) for path, leaf in before.items())
    assert any(leaf.any() for path, leaf in after.items() if path.endswith("lora_b"))
    again = open_run(tmp_path / "adapted", dataset=rhyme)
    adapted = again.parts.task.model
    assert adapted == run.parts.task.model
    x = rhyme.test["inputs"][:4]
    merged = adapted.model.apply(adapted.merged(again.variables), x)
    np.testing.assert_allclose(adapted.apply(again.variables, x), merged, atol=1e-5)
    from_folder = jaxnets.fit(task, rhyme, initial=tmp_path / "base", **adapters)
    assert all(np.array_equal(named(from_folder.state.params)[path], leaf) for path, leaf in before.items())


class Noisy(nn.Module):
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="output")(nn.Dropout(0.5, deterministic=self.deterministic)(x))


@pytest.mark.slow
def test_a_mode_that_is_a_field_or_an_argument_reaches_the_model():
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(40, 5)).astype(np.float32), np.arange(40) % 2)
    # With a metric of the user's the model is inside a task inside a task.
    measures = {"ones": lambda outputs, batch: jnp.ones_like(batch["mask"])}
    for model in (Noisy(), MLP(widths=(8,), dropout=0.5)):
        plain = jaxnets.fit(model, data, steps=2, progress="none")
        run = jaxnets.fit(LoRA(model), data, steps=2, progress="none", freeze=".*/lora_.*", metrics=measures)
        for a, b in zip(jax.tree.leaves(plain.state.params),
                        jax.tree.leaves(LoRA(model).merged(run.variables)["params"]), strict=True):  # fmt: skip
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_adapters_decay_as_weights():
    params = dataclasses.replace(LoRA(nn.Dense(3))).init(jax.random.key(0), jnp.ones((4, 5)))["params"]
    decays = jaxnets.ops.roles.weights(params)
    assert decays == {"kernel": True, "bias": False, "lora_a": True, "lora_b": True}
