"""A mixture of experts instead of an MLP: each token is routed to a few experts (Shazeer et al. 2017).

Shapes: `B` batch, `T` positions, `N` = B T tokens, `D` width, `F` hidden units of an expert, `E` experts, `k` experts a token,
`C` capacity of an expert in each sequence.

If the collection "routing" is mutable, each layer sows statistics of the router there, one number per sequence, `[B]`:
`balance` (Switch, Fedus et al. 2022, eq. 4, without its factor: from 1 for uniform use of the experts to E / k), `router_z`
(Zoph et al. 2022, eq. 5) and `dropped`, the fraction of choices over capacity. `NextToken` adds the first two to its loss.
All three are per sequence, as in GShard (Lepikhin et al. 2021), so means over any batches are exact.
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.typecheck import check_choices
from jaxnets.core.wide import wide
from jaxnets.models.activations import FeedForward, feed_forward
from jaxnets.ops import name_axes
from jaxnets.ops.axes import axis_size
from jaxnets.ops.beyond_promise import compiled_for

COLLECTION = "routing"


@dataclasses.dataclass(frozen=True)
class Experts:
    """Number of experts that replace each MLP, and how tokens are routed to them."""

    count: int = 0
    """Experts, each an MLP of `mlp_dim` units; 0: the plain MLP."""
    per_token: int = 2
    """Experts that each token is routed to."""
    routing: Literal["dropless", "capacity"] = "dropless"
    """dropless: experts process every token routed to them. capacity: an expert processes a limited number of tokens of each
    sequence, in order, and skips the rest. The limit grows with the length of the sequence, so a prefix alone may be routed
    differently than within a longer text."""
    capacity: float = 1.25
    """Capacity factor: capacity of an expert relative to its share under uniform routing."""
    weights: Literal["chosen", "all"] = "chosen"
    """Weights of the expert outputs: router probabilities normalised over the chosen experts (Mixtral) or all (Switch)."""
    products: Literal["auto", "grouped", "dense"] = "auto"
    """Products of dropless routing, with equal results. grouped: tokens sorted by expert; dense: every token with every
    expert. auto: grouped, but dense on the CPU, where it measured faster (JAX's grouped product is masked and dense there)."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.count < 0:
            raise ValueError(f"Experts.count is at least 0, got {self.count}")
        if self.count and not 1 <= self.per_token <= self.count:
            raise ValueError(f"Experts.per_token is 1 to count {self.count}, got {self.per_token}")
        if not 0 < self.capacity < math.inf:
            raise ValueError(f"Experts.capacity is positive, got {self.capacity}")
        if self.count > 1 and self.per_token == 1 and self.weights == "chosen":
            raise ValueError(
                "Experts with per_token 1 and weights 'chosen' weigh every result by 1, so the router learns nothing; "
                "set weights to 'all', as in Switch"
            )

    def places(self, length: int) -> int:
        """Capacity of an expert for a sequence of `length` tokens."""
        return min(length, math.ceil(self.capacity * self.per_token * length / self.count))


class MixtureOfExperts(nn.Module):
    """A router, and experts of one hidden layer each."""

    experts: Experts
    """Their number and routing."""
    mlp_dim: int
    """Hidden units of each."""
    mlp: FeedForward = "gelu"
    """Function of an expert between its linear maps: see `FeedForward` in `activations.py`."""
    biased: bool = False
    """Whether the experts' linear maps have biases."""
    start: tuple[float, float] = (0.02, 0.02)
    """Standard deviations of the initial weights: into the hidden layer, and out of it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, T, D]` to the same; the router always computes in float32."""
        E, k, T = self.experts.count, self.experts.per_token, x.shape[1]
        init, exact = nn.initializers.normal(0.02), wide(x)
        router = nn.Dense(E, use_bias=False, kernel_init=init, dtype=exact.dtype, name="router")
        logits = router(exact)
        probabilities = jax.nn.softmax(logits)
        weights, chosen = jax.lax.top_k(probabilities, k)
        if self.experts.weights == "chosen":
            weights = weights / weights.sum(axis=-1, keepdims=True)
        if self.experts.routing == "capacity":
            y, dropped = self.with_places(x, weights, chosen, self.experts.places(T))
        else:
            dense = self.experts.products == "dense"
            # Sorted rows of one expert are on all devices, so with experts on several devices every product is dense.
            dense |= (self.experts.products == "auto" and compiled_for() in ("cpu", "onnx")) or axis_size("expert") > 1
            y, dropped = (self.dense if dense else self.grouped)(x, weights, chosen), jnp.zeros(x.shape[0])
        shares = jax.nn.one_hot(chosen, E).sum(axis=2).mean(axis=1) / k
        self.tell("balance", E * (shares * probabilities.mean(axis=1)).sum(axis=-1))
        self.tell("router_z", jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean(axis=-1))
        self.tell("dropped", dropped)
        return y

    def tell(self, name: str, value: Array) -> None:
        """Sow `[B]` numbers in the collection. Not at initialisation, because they are not state."""
        if not self.is_initializing():
            self.sow(COLLECTION, name, value, reduce_fn=_last, init_fn=_nothing)

    def dense(self, x: Array, weights: Array, chosen: Array) -> Array:
        """Every expert processes every token; the outputs of experts that were not chosen have weight 0."""
        (B, T, D), E = x.shape, self.experts.count
        combine = (jax.nn.one_hot(chosen, E) * weights[..., None]).sum(axis=2).astype(x.dtype)
        y = self.serve(jnp.broadcast_to(x[:, None], (B, E, T, D)), _by_expert)
        return jnp.einsum("betd,bte->btd", y, combine)

    def grouped(self, x: Array, weights: Array, chosen: Array) -> Array:
        """Tokens are sorted by expert, so that the rows of each expert are contiguous."""
        k, D = chosen.shape[-1], x.shape[-1]
        expert = chosen.reshape(-1)
        order = jnp.argsort(expert, stable=True)
        sizes = jnp.bincount(expert, length=self.experts.count)
        token, expert = order // k, expert[order]

        def multiply(rows: Array, kernel: Array, bias: Array | None) -> Array:
            y = jax.lax.ragged_dot(rows, kernel, sizes)
            return y if bias is None else y + bias[expert]

        y = self.serve(x.reshape(-1, D)[token], multiply) * weights.reshape(-1)[order, None].astype(x.dtype)
        # Back to the order of the tokens; the k results of a token are adjacent.
        return y[jnp.argsort(order)].reshape(-1, k, D).sum(axis=1).reshape(x.shape)

    def with_places(self, x: Array, weights: Array, chosen: Array, places: int) -> tuple[Array, Array]:
        """Each expert processes the first `places` tokens of each sequence that chose it."""
        (B, T, D), E, k = x.shape, self.experts.count, chosen.shape[-1]
        chosen = chosen.reshape(B, T * k)
        one_hot = jax.nn.one_hot(chosen, E, dtype=jnp.int32)
        before = ((jnp.cumsum(one_hot, axis=1) - one_hot) * one_hot).sum(axis=-1)
        # Choices over capacity get an extra place at the end. No expert reads it, and its result is 0.
        place = jnp.where(before < places, chosen * places + before, E * places)
        token = jnp.broadcast_to(jnp.arange(T * k)[None] // k, (B, T * k))
        from_token = jnp.full((B, E * places + 1), T).at[jnp.arange(B)[:, None], place].set(token)[:, :-1]
        zero_row = jnp.zeros((B, 1, D), x.dtype)
        routed = jnp.take_along_axis(jnp.concatenate([x, zero_row], axis=1), from_token[..., None], axis=1)
        y = self.serve(routed.reshape(B, E, places, D), _by_expert).reshape(B, E * places, D)
        y = jnp.take_along_axis(jnp.concatenate([y, zero_row], axis=1), place[..., None], axis=1).reshape(B, T, k, D)
        dropped = (before >= places).astype(jnp.float32).mean(axis=1)
        return (y * weights[..., None].astype(x.dtype)).sum(axis=2), dropped

    def serve(self, x: Array, multiply: Any) -> Array:
        """The experts' MLPs; `multiply(x, kernels, biases)` applies each expert's kernel to its rows."""
        D, F = x.shape[-1], self.mlp_dim
        apart = x.ndim == 4 and axis_size("expert") > 1
        if apart:  # the rows of a batch go to the devices that hold their experts, also the gradients on their way back
            x = name_axes(x, "batch", "expert_home", "length", "embed")
            x = name_axes(x, "group", "expert", "length", "embed")
        h = multiply(x, *self.maps("up", D, F, x.dtype))
        h = feed_forward(self.mlp, h, lambda: multiply(x, *self.maps("gate", D, F, x.dtype)))
        h = name_axes(h, "group", "expert", "length", "mlp") if apart else h
        y = multiply(h, *self.maps("down", F, D, x.dtype))
        if not apart:
            return y
        return name_axes(name_axes(y, "group", "expert", "length", "embed"), "batch", "expert_home", "length", "embed")

    def maps(self, name: str, inputs: int, outputs: int, dtype: Any) -> tuple[Array, Array | None]:
        """Kernels `[E, inputs, outputs]` and biases `[E, outputs]` or None."""
        E = self.experts.count
        init = nn.initializers.normal(self.start[name == "down"])
        kernel = self.param(f"{name}_kernel", init, (E, inputs, outputs)).astype(dtype)
        if not self.biased:
            return kernel, None
        return kernel, self.param(f"{name}_bias", nn.initializers.zeros, (E, outputs)).astype(dtype)


def _by_expert(x: Array, kernel: Array, bias: Array | None) -> Array:
    """`[B, E, C, inputs]` to `[B, E, C, outputs]`."""
    y = jnp.einsum("beci,eio->beco", x, kernel)
    return y if bias is None else y + bias[None, :, None]


def _last(old: Any, new: Array) -> Array:
    del old
    return new


def _nothing() -> None:
    return None
