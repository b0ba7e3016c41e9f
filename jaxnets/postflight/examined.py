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

from jaxnets.core.types import Batch
from jaxnets.data.large import gather
from jaxnets.ops.random import stream_key
from jaxnets.parallel.mesh import MeshShape, make_mesh
from jaxnets.runs.flops import forward_flops
from jaxnets.runs.prepared import prepared
from jaxnets.tasks.predicted import predicted_kind

if TYPE_CHECKING:
    from jaxnets.runs.run import Run

# FLOPs of the passes over the examples of a split, a minute of a CPU; and how many passes the sections take, counted as
# gradients.
BUDGET = 1e12
PASSES = {"train": 300, "test": 30}


@dataclasses.dataclass(frozen=True)
class Examined:
    """A trained run and the examples by which it is measured. All but the score is computed on one device, in float32."""

    run: "Run"
    """The trained run."""
    examples: int
    """Most examples of each split that are looked at."""
    seed: int
    """Root of all random choices."""

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """The weights that the run predicts with, on the host."""
        found: dict[str, Any] = jax.device_get(self.run.variables)
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
        parts, total = self.run.parts, self.run.parts.dataset.card.examples[split]
        each = 3 * forward_flops(parts) / parts.batch_spec["mask"].shape[0]
        most = min(self.examples, max(4, int(BUDGET / (PASSES[split] * max(each, 1.0)))))
        if total <= most:
            return np.arange(total, dtype=np.int32)
        return np.sort(np.random.default_rng(self.seed).choice(total, most, replace=False)).astype(np.int32)

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
        """Parameters to the mean loss of the training examples, without dropout, augmentation and penalty."""
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
        if self.kind not in ("class", "number"):
            return f"{type(getattr(parts.task, 'inner', parts.task)).__name__} predicts no class or number for each example"
        if not jnp.issubdtype(self.asked.dtype, jnp.floating):
            return f"inputs are {self.asked.dtype}, and only real numbers can be changed by a little"
        if jax.eval_shape(self.outputs, self.asked).shape[:1] != self.asked.shape[:1]:
            return "the outputs are not one row for each example"
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
        evaluator = self.run.parts.evaluator
        with jax.set_mesh(self.run.parts.mesh):
            found = evaluator.metrics({**self.run.variables, "params": params}, rows=self.rows("test"))
        return float(found[self.headline])

    @property
    def headline(self) -> str:
        """The name of the score."""
        return self.run.parts.task.headline

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One device, so that any number of examples will do."""
        with jax.set_mesh(make_mesh(MeshShape(), devices=jax.local_devices()[:1])):
            yield
