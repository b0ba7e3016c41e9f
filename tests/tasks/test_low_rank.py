"""LoRA: adapters in any module, what stays fixed, and what merging gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, assert_same_bits

import jaxnets
from jaxnets import LoRA, models, tasks
from jaxnets.core.errors import UsageError
from jaxnets.data.sources.text import from_tokens
from jaxnets.data.text.tokenizers import Characters

TEXT = "the quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 6)).astype(np.float32)
    return x, (x @ rng.normal(size=(6, 3))).argmax(1)


class Net(nn.Module):
    """Layers of three kinds: a Dense, a DenseGeneral with a kernel of three dims, and a norm without a kernel."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="norm")(nn.relu(nn.Dense(8, name="body")(x)))
        x = nn.DenseGeneral((2, 4), name="heads")(x)
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def base(rows):
    return jaxnets.fit(Net(), rows, epochs=3, progress="none")


def test_the_first_outputs_are_those_of_the_model_and_only_adapters_move(rows, base):
    started = jaxnets.fit(Net(), rows, initial=base, lora=LoRA(rank=2, at="body|heads"), steps=1, progress="none")
    assert_same_bits(started.variables["params"]["norm"], base.variables["params"]["norm"])
    run = jaxnets.fit(Net(), rows, initial=base, lora=LoRA(rank=2, at="body|heads"), steps=30, progress="none")
    for layer in ("norm", "head"):
        assert_same_bits(run.state.params[layer], base.state.params[layer])
    for layer in ("body", "heads"):
        own = dict(run.state.params[layer])
        assert own.pop("lora_a").shape[-1] == own.pop("lora_b").shape[-2] == 2
        assert_same_bits(own, base.state.params[layer])
    moments = [leaf.shape for leaf in jax.tree.leaves(run.state.opt_state) if leaf.ndim]
    adapters = [
        leaf.shape for layer in ("body", "heads") for key, leaf in run.state.params[layer].items() if "lora" in key
    ]
    assert sorted(moments) == sorted(2 * adapters)
    # Merged: the variables of the model itself.
    assert jax.tree.structure(run.variables["params"]) == jax.tree.structure(base.variables["params"])
    prepared = run.parts.dataset.prepare(rows[0][:5])
    assert_close(run.outputs(rows[0][:5]), np.asarray(Net().apply(run.variables, prepared)), atol=1e-5)
    assert not np.allclose(run.outputs(rows[0][:5]), base.outputs(rows[0][:5]), atol=1e-3)


def test_adapters_equal_a_hand_written_loop(rows):
    """W + 2 A B in every layer, SGD on A and B alone, on the same batches."""
    x, y = rows
    variables = Net().init(jax.random.key(0), x[:1])
    lora = LoRA(rank=2, alpha=4.0, at="body|head")
    run = jaxnets.fit(
        Net(), (x, y), test=(x, y), initial=variables, lora=lora, steps=5, batch_size=96, optimizer=optax.sgd(0.3),
        progress="none",
    )  # fmt: skip
    own = jaxnets.fit(
        Net(), (x, y), test=(x, y), initial=variables, lora=lora, steps=1, batch_size=96, optimizer=optax.sgd(1e-30),
        progress="none",
    )  # fmt: skip
    params, z = own.state.params, jnp.asarray(run.parts.dataset.prepare(x))
    pairs = {layer: (params[layer]["lora_a"], jnp.zeros_like(params[layer]["lora_b"])) for layer in ("body", "head")}

    def loss(pairs):
        full = {layer: dict(variables["params"][layer]) for layer in variables["params"]}
        for layer, (a, b) in pairs.items():
            full[layer]["kernel"] = full[layer]["kernel"] + 2.0 * a @ b
        logits = Net().apply({"params": full}, z)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    for _ in range(5):
        pairs = jax.tree.map(lambda p, g: p - 0.3 * g, pairs, jax.grad(loss)(pairs))
    for layer, (a, b) in pairs.items():
        # Sums over the batch in another order: 1e-6 was seen.
        assert_close(run.state.params[layer]["lora_a"], a, atol=1e-5)
        assert_close(run.state.params[layer]["lora_b"], b, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_in_a_language_model_with_generation_from_the_merged_weights(scan):
    tokenizer = Characters.of(TEXT)
    ids = np.array([tokenizer.symbols.index(c) for c in TEXT], np.int32)
    data = from_tokens(ids[:2000], ids[2000:], tokenizer, name="text", source="here", length=16)
    model = models.LanguageModel(layers=2, width=16, heads=2, length=16, blocks="scanned" if scan else "unrolled")
    base = jaxnets.fit(tasks.NextToken(model=model), data, steps=2, progress="none")
    lora = LoRA(rank=2, at=r".*(query|value).*")
    run = jaxnets.fit(
        tasks.NextToken(model=model), data, initial=base, lora=lora, steps=3, progress="none", optimizer="adamw"
    )
    adapted = [p for p, _ in jax.tree_util.tree_leaves_with_path(run.state.params) if "lora_a" in str(p)]
    assert adapted
    assert jax.tree.structure(run.variables["params"]) == jax.tree.structure(base.variables["params"])
    tokens = data.test["inputs"][:2].astype(np.int32)
    ours = run.outputs(data.test["inputs"][:2])
    plain = jax.nn.log_softmax(run.parts.task.plain.model.apply(run.variables, tokens)[:, -1])
    assert_close(ours, np.asarray(plain, np.float32), atol=1e-4)  # predictions are those of the last token


def test_what_does_not_fit_is_said(rows, base):
    with pytest.raises(UsageError, match="whole path of no layer with a kernel. Did you mean 'body'"):
        jaxnets.fit(Net(), rows, initial=base, lora=LoRA(rank=2, at="bodi"), steps=1, progress="none")
    with pytest.raises(UsageError, match="rank is 7, but body/kernel is 6 x 8"):
        jaxnets.fit(Net(), rows, lora=LoRA(rank=7, at="body"), steps=1, progress="none")
    with pytest.raises(UsageError, match="rank is at least 1"):
        LoRA(rank=0)


def test_frozen_parameters_have_no_gradient(rows, base):
    """The norm in the log is that of the parameters that move."""
    run = jaxnets.fit(Net(), rows, initial=base, train_only="head/.*", steps=1, batch_size=72, progress="none")
    whole = jaxnets.fit(Net(), rows, initial=base, steps=1, batch_size=72, progress="none")
    assert run.history.records[0]["gradient_norm"] < 0.9 * whole.history.records[0]["gradient_norm"]
