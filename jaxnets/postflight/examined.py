"""What the sections of a diagnosis look at: a trained run, some of its examples, its loss and its score."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.checkpoints.retention import direction
from jaxnets.core.types import Batch
from jaxnets.data.large import gather
from jaxnets.ops.random import stream_key
from jaxnets.parallel.mesh import MeshShape, make_mesh
from jaxnets.runs.flops import forward_flops
from jaxnets.runs.prepared import prepared
from jaxnets.tasks.predicted import predicted_kind
from jaxnets.training.evaluate import Evaluator

if TYPE_CHECKING:
    from jaxnets.runs.run import Run

# FLOPs that the examples of a split may take, about a minute of a CPU; and how many gradients of each example that is.
BUDGET = 1e12
PASSES = {"train": 300, "test": 120}
# Where four examples take as many budgets, a section is left out.
MOST_BUDGETS = 20


@dataclasses.dataclass(frozen=True)
class Examined:
    """A trained run and the examples by which it is measured.

    Curvature and attacks are computed on one device in float32, score and explanations in the number formats of the run.
    """

    run: "Run"
    """The trained run."""
    examples: int
    """Most examples of each split that are looked at."""
    seed: int
    """Root of all random choices."""

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """The weights that the run predicts with, on the host, in float32 at least."""

        def wide(leaf: Any) -> Any:
            return np.asarray(leaf, np.float32) if leaf.dtype in (jnp.bfloat16, jnp.float16) else np.asarray(leaf)

        found: dict[str, Any] = jax.tree.map(wide, jax.device_get(self.run.variables))
        return found

    @property
    def params(self) -> Any:
        """The parameters among them."""
        return self.variables["params"]

    @property
    def kind(self) -> str:
        """The kind of the targets that the task predicts: class, number and others; "" where it does not."""
        return predicted_kind(self.run.parts.task, self.run.parts.dataset.card.target_kind)

    def rows(self, split: Literal["train", "test"]) -> np.ndarray:
        """Random row numbers of a split in rising order: at most `examples`, and as many as `BUDGET` allows, at least four."""
        total = self.run.parts.dataset.card.examples[split]
        most = min(self.examples, max(4, int(BUDGET / (PASSES[split] * self.flops))))
        if total <= most:
            return np.arange(total, dtype=np.int32)
        return np.sort(np.random.default_rng(self.seed).choice(total, most, replace=False)).astype(np.int32)

    @functools.cached_property
    def flops(self) -> float:
        """Of the gradient of one example."""
        parts = self.run.parts
        return max(1.0, 3 * forward_flops(parts) / parts.batch_spec["mask"].shape[0])

    def too_expensive(self, split: Literal["train", "test"]) -> str:
        """The reason why not even four examples are looked at; "" where they are."""
        needed = 4 * PASSES[split] * self.flops
        if needed <= MOST_BUDGETS * BUDGET:
            return ""
        return f"four examples take {needed:.1e} FLOPs; at most {MOST_BUDGETS * BUDGET:.0e} are spent"

    @functools.cached_property
    def test(self) -> dict[str, np.ndarray]:
        """Raw test examples."""
        return gather(self.run.parts.dataset.test, self.rows("test"))

    @functools.cached_property
    def training(self) -> Batch:
        """Prepared training examples."""
        rows = self.rows("train")
        return prepared(self.run.parts, gather(self.run.parts.dataset.train, rows), rows)

    @functools.cached_property
    def loss(self) -> Callable[[Any], Array]:
        """Parameters to the mean loss of the training examples as in an evaluation: without dropout, augmentation, penalty,
        label smoothing, and what a task or a module adds in training only."""
        task, variables, batch = self.run.parts.task, self.variables, self.training

        def loss(params: Any) -> Array:
            mean, _ = task.loss({**variables, "params": params}, batch, stream_key(self.seed, "model", 0), False)
            return jnp.asarray(mean.sum / mean.weight)

        return loss

    @property
    def by_outputs(self) -> str:
        """The reason why its predictions cannot be looked at as numbers of each example; "" where they can."""
        parts = self.run.parts
        if parts.dataset.several or set(parts.dataset.preparation.names) != {"inputs"}:
            return "the model has several inputs"
        if parts.dataset.card.target_kind == "distribution":
            return "targets are distributions"
        if self.kind not in ("class", "number"):
            return f"{type(getattr(parts.task, 'inner', parts.task)).__name__} predicts no class or number for each example"
        if not jnp.issubdtype(self.asked.dtype, jnp.floating):
            return f"inputs are {self.asked.dtype}, and only real numbers can be changed by a little"
        shape = jax.eval_shape(self.outputs, self.asked).shape
        if shape[:1] != self.asked.shape[:1]:
            return "the outputs are not one row for each example"
        if self.kind == "class" and (len(shape) != 2 or shape[1] < max(2, len(self.run.class_names))):
            return f"outputs of shape {list(shape)} are not one number for each class"
        return ""

    @functools.cached_property
    def asked(self) -> Array:
        """The inputs of the test examples as the model takes them, `[N, ...]`."""
        return self._test_batch["inputs"]

    @functools.cached_property
    def _test_batch(self) -> Batch:
        return prepared(self.run.parts, self.test, self.rows("test"))

    @functools.cached_property
    def outputs(self) -> Callable[[Array], Array]:
        """Prepared inputs `[N, ...]` to the outputs of the task, `[N, C]` or `[N]` float32."""
        task, variables = self.run.parts.task, self.variables

        def outputs(inputs: Array) -> Array:
            return jnp.asarray(task.outputs(variables, {"inputs": inputs}), jnp.float32)

        return outputs

    def score(self, params: Any) -> float:
        """The task's headline on the test examples, with other parameters."""
        with jax.set_mesh(self.run.parts.mesh):
            return float(self._evaluator.metrics({**self.run.variables, "params": params})[self.headline])

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        return self.run.parts.make_evaluator(self.test)

    @property
    def less_is_better(self) -> bool:
        """Whether a smaller score is better."""
        return (self.run.parts.task.directions.get(self.headline) or direction(self.headline)) == "min"

    @property
    def headline(self) -> str:
        """The name of the score."""
        return self.run.parts.task.headline

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One device, so that any number of examples will do."""
        with jax.set_mesh(make_mesh(MeshShape(), devices=jax.local_devices()[:1])):
            yield
