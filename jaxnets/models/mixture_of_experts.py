"""A mixture of experts in the place of an MLP: each token goes to a few of many (Shazeer et al. 2017).

Shapes: `B` batch, `T` positions, `N` = B T tokens, `D` width, `F` hidden units of an expert, `E` experts, `k` experts a token,
`C` places an expert has in each sequence.

What the router does is told, not kept to itself: where the collection "routing" is mutable, each layer leaves there, for each
sequence `[B]`, `balance` (Switch, Fedus et al. 2022, eq. 4, without its factor: 1 where experts are used alike, up to E / k),
`router_z` (Zoph et al. 2022, eq. 5) and `dropped`, the share of choices that found no place. `NextToken` adds the first two to
its loss. All three are of one sequence, as in GShard (Lepikhin et al. 2021), so they are exact means over any batches.
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.typecheck import check_choices
from jaxnets.ops.beyond_promise import compiled_for

COLLECTION = "routing"


@dataclasses.dataclass(frozen=True)
class Experts:
    """How many experts there are in the place of each MLP, and how tokens find them."""

    count: int = 0
    """Experts, each an MLP of `mlp_dim` units; 0: the plain MLP."""
    per_token: int = 2
    """Experts that each token is sent to."""
    routing: Literal["dropless", "capacity"] = "dropless"
    """dropless: every token is served. capacity: an expert has places for a part of each sequence, first come first served,
    and a token that finds none passes by. No token's fate depends on later ones, but on their number: unlike dropless routing
    it serves a text and its beginning alone differently."""
    capacity: float = 1.25
    """Places an expert has, in units of those it would need if all were used alike."""
    weights: Literal["chosen", "all"] = "chosen"
    """What the results are weighed by: probabilities among those chosen (Mixtral), or among all (Switch)."""
    products: Literal["auto", "grouped", "dense"] = "auto"
    """How dropless routing multiplies, with equal results: tokens sorted by expert, or every token by every expert. auto is
    grouped, but dense on the CPU, where that was measured to be faster (jax's grouped product is a masked dense one there)."""

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
                "set weights to 'all', as Switch has it"
            )

    def places(self, length: int) -> int:
        """Places of an expert in a sequence of `length` tokens."""
        return min(length, math.ceil(self.capacity * self.per_token * length / self.count))


class MixtureOfExperts(nn.Module):
    """A router, and experts of one hidden layer each."""

    experts: Experts
    """Their number and routing."""
    mlp_dim: int
    """Hidden units of each."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """One hidden layer with GELU (tanh form), or with a gate: silu(gate(x)) * up(x)."""
    biased: bool = False
    """Whether the experts' linear maps have biases."""
    start: tuple[float, float] = (0.02, 0.02)
    """Standard deviation of fresh weights: of those into the hidden layer, and of those out of it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, T, D]` to the same; the router in float32 whatever the dtype of `x`."""
        E, k, T = self.experts.count, self.experts.per_token, x.shape[1]
        init = nn.initializers.normal(0.02)
        router = nn.Dense(E, use_bias=False, kernel_init=init, dtype=jnp.float32, name="router")
        logits = router(x.astype(jnp.float32))
        probabilities = jax.nn.softmax(logits)
        weights, chosen = jax.lax.top_k(probabilities, k)
        if self.experts.weights == "chosen":
            weights = weights / weights.sum(axis=-1, keepdims=True)
        if self.experts.routing == "capacity":
            y, dropped = self.with_places(x, weights, chosen, self.experts.places(T))
        else:
            dense = self.experts.products == "dense"
            dense |= self.experts.products == "auto" and compiled_for() == "cpu"
            y, dropped = (self.dense if dense else self.grouped)(x, weights, chosen), jnp.zeros(x.shape[0])
        shares = jax.nn.one_hot(chosen, E).sum(axis=2).mean(axis=1) / k
        self.tell("balance", E * (shares * probabilities.mean(axis=1)).sum(axis=-1))
        self.tell("router_z", jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean(axis=-1))
        self.tell("dropped", dropped)
        return y

    def tell(self, name: str, value: Array) -> None:
        """Leave `[B]` numbers in the collection, not at initialisation: they are no state."""
        if not self.is_initializing():
            self.sow(COLLECTION, name, value, reduce_fn=_last, init_fn=_nothing)

    def dense(self, x: Array, weights: Array, chosen: Array) -> Array:
        """Every expert serves every token, and most results are weighed by 0."""
        (B, T, D), E = x.shape, self.experts.count
        every = (jax.nn.one_hot(chosen, E) * weights[..., None]).sum(axis=2).astype(x.dtype)
        y = self.serve(jnp.broadcast_to(x[:, None], (B, E, T, D)), _by_expert)
        return jnp.einsum("betd,bte->btd", y, every)

    def grouped(self, x: Array, weights: Array, chosen: Array) -> Array:
        """Tokens sorted by their expert, so that each expert's are one piece of one array."""
        k, D = chosen.shape[-1], x.shape[-1]
        expert = chosen.reshape(-1)
        order = jnp.argsort(expert, stable=True)
        sizes = jnp.bincount(expert, length=self.experts.count)
        token, expert = order // k, expert[order]

        def multiply(rows: Array, kernel: Array, bias: Array | None) -> Array:
            y = jax.lax.ragged_dot(rows, kernel, sizes)
            return y if bias is None else y + bias[expert]

        y = self.serve(x.reshape(-1, D)[token], multiply) * weights.reshape(-1)[order, None].astype(x.dtype)
        # Back in the order of the tokens, whose results then lie side by side.
        return y[jnp.argsort(order)].reshape(-1, k, D).sum(axis=1).reshape(x.shape)

    def with_places(self, x: Array, weights: Array, chosen: Array, places: int) -> tuple[Array, Array]:
        """Each expert serves the first `places` of each sequence's tokens that chose it."""
        (B, T, D), E, k = x.shape, self.experts.count, chosen.shape[-1]
        chosen = chosen.reshape(B, T * k)
        hot = jax.nn.one_hot(chosen, E, dtype=jnp.int32)
        before = ((jnp.cumsum(hot, axis=1) - hot) * hot).sum(axis=-1)
        # Where there is no place, one behind the last: nothing reads it, and its own result is 0.
        place = jnp.where(before < places, chosen * places + before, E * places)
        token = jnp.broadcast_to(jnp.arange(T * k)[None] // k, (B, T * k))
        from_token = jnp.full((B, E * places + 1), T).at[jnp.arange(B)[:, None], place].set(token)[:, :-1]
        nobody = jnp.zeros((B, 1, D), x.dtype)
        guests = jnp.take_along_axis(jnp.concatenate([x, nobody], axis=1), from_token[..., None], axis=1)
        y = self.serve(guests.reshape(B, E, places, D), _by_expert).reshape(B, E * places, D)
        y = jnp.take_along_axis(jnp.concatenate([y, nobody], axis=1), place[..., None], axis=1).reshape(B, T, k, D)
        dropped = (before >= places).astype(jnp.float32).mean(axis=1)
        return (y * weights[..., None].astype(x.dtype)).sum(axis=2), dropped

    def serve(self, x: Array, multiply: Any) -> Array:
        """The experts' MLPs; `multiply(x, kernels, biases)` knows which rows are whose."""
        D, F = x.shape[-1], self.mlp_dim
        h = multiply(x, *self.maps("up", D, F, x.dtype))
        gate = multiply(x, *self.maps("gate", D, F, x.dtype)) if self.mlp == "swiglu" else None
        h = nn.gelu(h, approximate=True) if gate is None else nn.silu(gate) * h
        return multiply(h, *self.maps("down", F, D, x.dtype))

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
