"""A neural ordinary differential equation (Chen et al. 2018). It needs the extra `ode` (diffrax).

Shapes: `B` batch, `N` input features, `D` numbers in the state, `C` outputs.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.errors import UsageError
from jaxnets.core.wide import wide
from jaxnets.models.layers import Dense, check_layers

Solver = Literal["euler", "heun", "tsit5", "dopri5"]
Adjoint = Literal["checkpoint", "backsolve"]


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise UsageError(
            "a neural ODE needs diffrax, which is not installed; install it by `pip install jaxnets[ode]`"
        ) from error
    return diffrax


def integrate(
    field: Callable[[Array, Array, Any], Array],
    start: Array,
    parameters: Any,
    *,
    time: float = 1.0,
    steps: int = 16,
    solver: Solver = "tsit5",
    adjoint: Adjoint = "checkpoint",
) -> Array:
    """The state at `time` of `dx/dt = field(t, x, parameters)` that was `start` at 0; any shape.

    Args:
        field: the right-hand side.
        start: the state at time 0.
        parameters: parameters of the field; gradients flow to them and to `start`.
        time: the end, above 0.
        steps: number of equal solver steps. They are not adaptive: else the result for one example would depend on the
            others in its batch.
        solver: euler (order 1), heun (2), tsit5 (Tsitouras 2011) or dopri5 (Dormand and Prince 1980; both 5).
        adjoint: checkpoint differentiates the solver's steps and recomputes some of them. backsolve solves the adjoint
            equation backward in time (Chen et al. 2018): memory does not grow with the steps, and gradients are less exact.
    """
    diffrax = _diffrax()

    method = {"euler": "Euler", "heun": "Heun", "tsit5": "Tsit5", "dopri5": "Dopri5"}[solver]
    how = {"checkpoint": "RecursiveCheckpointAdjoint", "backsolve": "BacksolveAdjoint"}[adjoint]

    def solve(start: Array, parameters: Any) -> Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            getattr(diffrax, method)(),
            t0=0.0,
            t1=time,
            dt0=time / steps,
            y0=start,
            args=parameters,
            adjoint=getattr(diffrax, how)(),
            # One more: rounding may leave a last small step.
            max_steps=steps + 1,
        )
        return solution.ys[0]

    return _with_constants(solve)(start, parameters)


def _with_constants(solve: Callable[[Array, Any], Array]) -> Callable[[Array, Any], Array]:
    """The same function, with implicit transfers allowed while it and its gradient are traced.

    Tracing diffrax puts a few constants on the device. The training loop's transfer guard would raise there.
    """

    @jax.custom_vjp
    def solved(start: Array, parameters: Any) -> Array:
        with jax.transfer_guard("allow"):
            return solve(start, parameters)

    def forward(start: Array, parameters: Any) -> Any:
        with jax.transfer_guard("allow"):
            return jax.vjp(solve, start, parameters)

    def backward(pullback: Any, cotangent: Array) -> Any:
        with jax.transfer_guard("allow"):
            return pullback(cotangent)

    solved.defvjp(forward, backward)
    return solved


class Field(nn.Module):
    """The velocity `dx/dt` at a state and time: an MLP with one hidden layer of tanh."""

    width: int
    """Hidden units."""

    @nn.compact
    def __call__(self, time: Array, x: Array) -> Array:
        """`[B, D]` to the same shape."""
        now = jnp.broadcast_to(jnp.asarray(time, x.dtype), (x.shape[0], 1))
        hidden = nn.tanh(nn.Dense(self.width, name="hidden")(jnp.concatenate([x, now], axis=-1)))
        return nn.Dense(x.shape[-1], name="velocity")(hidden)


class NeuralODE(nn.Module):
    """Integrate the zero-padded inputs from time 0 to 1 along a learned field; a dense layer gives the outputs."""

    width: int = 64
    """Hidden units of the field."""
    extra: int = 2
    """Zeros appended to the inputs. With extra dims the flow can represent more functions (Dupont et al. 2019, "Augmented
    Neural ODEs")."""
    steps: int = 8
    """Equal steps of the solver."""
    solver: Solver = "tsit5"
    """The method: euler (order 1), heun (2), tsit5 or dopri5 (both 5)."""
    adjoint: Adjoint = "checkpoint"
    """How gradients are computed: checkpoint is exact, backsolve needs less memory; see `integrate`."""
    outputs: int | None = None
    """Output units; None: as many as the task needs (classes, or 1 for regression)."""

    def __post_init__(self) -> None:
        check_layers(self)
        for name, least in (("extra", 0), ("steps", 1)):
            if isinstance(getattr(self, name), int) and getattr(self, name) < least:
                raise ValueError(f"NeuralODE.{name} is at least {least}, got {getattr(self, name)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, C]` of inputs `[B, ...]`; the trailing dims are flattened."""
        x = x.reshape(x.shape[0], -1)
        # Always float32: the steps are small relative to the state.
        start = jnp.pad(wide(x), ((0, 0), (0, self.extra)))
        # The solver calls the field as a pure function of its weights, which are created here.
        field: Any = Field(self.width, parent=None)
        weights = self.param("field", lambda key: field.init(key, 0.0, start)["params"])
        end = integrate(_velocity(field), start, weights, steps=self.steps, solver=self.solver, adjoint=self.adjoint)
        return Dense(self.outputs or 1, name="output")(end.astype(x.dtype))


def _velocity(field: Any) -> Callable[[Array, Array, Any], Array]:
    def velocity(time: Array, x: Array, weights: Any) -> Array:
        return field.apply({"params": weights}, time, x)

    return velocity
