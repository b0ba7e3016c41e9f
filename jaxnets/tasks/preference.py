"""Direct preference optimisation: a language model learns which of two answers is preferred (Rafailov et al. 2023).

Shapes: `B` batch, `T` positions.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Variables
from jaxnets.ops.tokens import IGNORED
from jaxnets.steps.recipe import Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.tasks.language import NextToken
from jaxnets.tasks.losses import token_cross_entropy

# The collection that holds the parameters of the policy as it was before the first step.
REFERENCE = "reference"
# The arrays of a batch that hold the rejected answers.
REJECTED = ("rejected_inputs", "rejected_targets")


def dpo_loss(chosen: Array, rejected: Array, *, beta: float = 0.1) -> Array:
    """`-log sigmoid(beta (chosen - rejected))`, `[B]` float32 (equation 7 of the paper).

    Args:
        chosen: `log pi(y) - log reference(y)` of the preferred answers, `[B]`, summed over their tokens.
        rejected: the same of the others.
        beta: strength; small values let the policy move far from the reference.
    """
    return jax.nn.softplus(-beta * (chosen - rejected))


def sequence_log_probability(logits: Array, targets: Array) -> Array:
    """`log p` of the tokens of each row that count, summed: `[B]` from logits `[B, T, V]` and targets `[B, T]`."""
    return jnp.where(targets != IGNORED, -token_cross_entropy(logits, targets), 0.0).sum(axis=1)


def with_reference(step: Step) -> Step:
    """A step whose first call copies the parameters, the initial weights of the run, into the collection `reference`."""

    def step_from_reference(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        kept = jax.tree.map(
            lambda old, now: jnp.where(state.step == 0, now, old), state.model_state[REFERENCE], state.params
        )
        return step(dataclasses.replace(state, model_state={**state.model_state, REFERENCE: kept}), batch)

    return step_from_reference


def apart(variables: Variables) -> tuple[Variables, Variables]:
    """The policy's variables, and those of the reference."""
    own = {name: tree for name, tree in variables.items() if name != REFERENCE}
    return own, {**own, "params": variables.get(REFERENCE, own["params"])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(NextToken):
    """Minimise `dpo_loss` over pairs of a preferred and a rejected answer to the same prompt.

    A batch holds `inputs` and `targets` `[B, T]` of the preferred answer, as `NextToken` takes them (targets of the prompt are
    -100), and `rejected_inputs` and `rejected_targets` of the other; see `data.Preferences`.

    The reference is the policy before the first step: the collection `reference`. So start from a trained model:

        fit(DPO(model=model), data, initial=Initial(run.variables, fresh=("reference/.*",)))
        jaxnets train ... --warm-start.run RUN --warm-start.fresh 'model_state/reference/*'
    """

    beta: float = 0.1
    """Strength of the reference; small values let the policy move far from it."""

    headline = "preferred"
    higher_is_better = True
    more_is_better: ClassVar[tuple[str, ...]] = ("margin",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta is above 0, got {self.beta}")

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Task`."""
        return (*super().reads, *REJECTED)

    def init(self, key: Array, batch: Batch) -> Variables:
        """The model's variables, and a copy of its parameters."""
        variables = super().init(key, batch)
        return {**variables, REFERENCE: jax.tree.map(jnp.copy, variables["params"])}

    def make_step(self, recipe: Recipe) -> Step:
        """The default step; the first one takes the reference."""
        return with_reference(super().make_step(recipe))

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """The mean over the unmasked pairs.

        The metrics hold `preferred`, the share of pairs in which the preferred answer gained more than the other, and
        `margin`, `beta` times the mean difference of the gains.
        """
        own, reference = apart(variables)
        pairs = {
            "inputs": _both(batch["inputs"], batch["rejected_inputs"]),
            "targets": _both(batch["targets"], batch["rejected_targets"]),
        }
        logits, state = self.apply(own, pairs, key if train else None)
        kept = jax.lax.stop_gradient(self.apply(reference, pairs, None)[0])
        gain = sequence_log_probability(logits, pairs["targets"]) - sequence_log_probability(kept, pairs["targets"])
        chosen, rejected = gain[::2], gain[1::2]
        margin = self.beta * (chosen - rejected)
        loss = Mean.of(dpo_loss(chosen, rejected, beta=self.beta), batch["mask"])
        preferred = Mean.of((margin > 0).astype(jnp.float32), batch["mask"])
        metrics = {"loss": loss, "preferred": preferred, "margin": Mean.of(margin, batch["mask"])}
        return loss, Aux(metrics, {**state, REFERENCE: variables[REFERENCE]})

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Loss, `preferred` and `margin`."""
        return self.loss(variables, batch, jax.random.key(0), False)[1].metrics

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """See `NextToken`."""
        return super().outputs(apart(variables)[0], batch)

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The metrics as they are."""
        return dict(values)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """None: the next tokens of a window do not show a preference."""
        del outputs, arrays, card
        return ()


def _both(chosen: Array, rejected: Array) -> Array:
    """Rows `[2 B, T]`: each preferred answer, then its rejected one, so that both lie on one device."""
    both: Any = jnp.stack([chosen, rejected], axis=1)
    return both.reshape(-1, *chosen.shape[1:])
