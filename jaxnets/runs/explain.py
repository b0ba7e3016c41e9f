"""Explanations of a run: the functions of `jaxnets.diagnose` on its raw inputs, weights and training examples."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.checkpoints.checkpoint import Checkpoints, abstract
from jaxnets.core.errors import DamagedError, UsageError, note
from jaxnets.core.types import Batch
from jaxnets.data.given import check_given, check_given_targets
from jaxnets.data.large import gather
from jaxnets.diagnose import attribution, examples, plane, units
from jaxnets.diagnose.attribution import Output
from jaxnets.models.layers import most_positions
from jaxnets.ops.random import stream_key
from jaxnets.parallel.mesh import MeshShape, make_mesh
from jaxnets.report import explanation_plots
from jaxnets.runs.prepared import prepared
from jaxnets.tasks.calls import in_mode
from jaxnets.tasks.semi_supervised import LABELLED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxnets.runs.run import Run

# Examples of a split in one call of the model.
BATCH = 256


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Maps of how single outputs depend on the inputs."""

    method: str
    """The function of `jaxnets.diagnose` that made it."""
    inputs: np.ndarray
    """The raw inputs, `[N, ...]`."""
    values: np.ndarray
    """`[N, ...]`: of the shape of the inputs, or `[N, places, ...]` for occlusion."""
    captions: tuple[str, ...] = ()
    """The prediction for each example."""
    gap: np.ndarray | None = None
    """`[N]`, for integrated gradients: the difference between their sum and the change of the output."""

    def plot(self) -> "Figure":
        """Each input beside its map: red increases the output, blue decreases it."""
        return explanation_plots.attributions(self.inputs, {self.method.replace("_", " "): self.values}, self.captions)


@dataclasses.dataclass(frozen=True)
class Explain:
    """Explanations of the predictions of a run; `run.explain` is one.

    Inputs are raw, as for `run.predict`. Differentiation and occlusion apply to the inputs as the model takes them, after the
    preparation: where that standardises, 0 is the mean. All is computed on one device.
    """

    run: "Run"

    def saliency(self, inputs: Any, output: Output = None) -> Explanation:
        """The gradient of an output with respect to the inputs; see `diagnose.saliency`."""
        return self._attributed("saliency", inputs, output)

    def smooth_gradient(self, inputs: Any, output: Output = None, **options: Any) -> Explanation:
        """The mean gradient under noise; see `diagnose.smooth_gradient` for `noise`, `draws` and `seed`."""
        return self._attributed("smooth_gradient", inputs, output, **options)

    def integrated_gradients(self, inputs: Any, output: Output = None, **options: Any) -> Explanation:
        """The contribution of each number to the output; see `diagnose.integrated_gradients` for `baseline` and `steps`."""
        return self._attributed("integrated_gradients", inputs, output, **options)

    def occlusion(self, inputs: Any, output: Output = None, **options: Any) -> Explanation:
        """How much the output falls where a window is covered; see `diagnose.occlusion` for `size`, `stride` and `fill`."""
        return self._attributed("occlusion", inputs, output, **options)

    def embedding(self, inputs: Any, layer: str = "") -> np.ndarray:
        """The outputs of a layer for raw inputs, flattened: `[N, D]` float32.

        Args:
            inputs: raw inputs.
            layer: its path in the parameters, such as `hidden_1`; "": the outputs of the model.
        """
        arrays = self._checked(inputs)
        with self._alone():
            variables = jax.device_get(self.run.variables)
            call = jax.jit(lambda variables, batch: self._apply(batch, layer)(variables, batch["inputs"]))
            found = []
            for start in range(0, len(arrays["inputs"]), BATCH):
                batch = self._prepared({name: array[start : start + BATCH] for name, array in arrays.items()})
                given = np.asarray(call(variables, batch), np.float32)
                found.append(given.reshape(len(given), -1))
        return np.concatenate(found)

    def nearest(
        self, inputs: Any, k: int = 5, *, layer: str = "", metric: Literal["cosine", "euclidean"] = "cosine"
    ) -> examples.Nearest:
        """The training examples whose embeddings are nearest: row numbers of `run.parts.dataset.train`, and distances.

        Args:
            inputs: raw inputs.
            k: how many.
            layer: as for `embedding`.
            metric: see `diagnose.nearest_examples`.
        """
        training = self._split("train")
        return examples.nearest_examples(
            self.embedding(inputs, layer), self.embedding(training, layer), k, metric=metric
        )

    def plane(
        self, layer: str = "", *, method: Literal["pca", "tsne"] = "pca", split: Literal["train", "test"] = "test"
    ) -> "Figure":
        """The embeddings of a split as points of the plane, coloured by class; see `diagnose.in_plane`.

        Args:
            layer: as for `embedding`.
            method: pca, or tsne where scikit-learn is installed.
            split: which examples.
        """
        arrays = self._split(split)
        points = plane.in_plane(self.embedding(arrays, layer), method)
        of_classes = self.run.parts.dataset.card.target_kind == "class"
        labels = np.asarray(getattr(self.run.parts.dataset, split)["targets"][:]) if of_classes else None
        return explanation_plots.plane(points, labels, self.run.class_names)

    def influence(
        self, inputs: Any, targets: Any, *, rows: Any = None, steps: Sequence[int] | None = None
    ) -> np.ndarray:
        """How much each training example reduced the loss of given examples: TracIn, `[N, rows]`; see `diagnose.influence`.

        Where the run has a directory, the sum is over its checkpoints, with the learning rates at their steps; else only the
        last weights count. An optimizer that does not say its rate counts with a rate of 1. Statistics of batch norms are
        those of the run's last weights at every checkpoint.

        Args:
            inputs: raw inputs.
            targets: their raw targets.
            rows: row numbers of the training examples to look at; None: all.
            steps: of the checkpoints; None: all that were kept (`keep=Keep(every=...)` keeps some for good).
        """
        run, task = self.run, self.run.parts.task
        card = run.parts.dataset
        self._check_data()
        chosen = np.arange(len(card.train["targets"])) if rows is None else np.asarray(rows)
        arrays = dict(self._checked(inputs))
        arrays["targets"] = check_given_targets(targets, card.preparation, len(arrays["inputs"]))
        if LABELLED in card.train:
            arrays[LABELLED] = np.ones(len(arrays["inputs"]), card.train[LABELLED].dtype)  # their targets are given
        states = self._checkpoints(steps)
        every = {name: value for name, value in jax.device_get(run.variables).items() if name != "params"}
        total = run.experiment.total_steps
        known = run.experiment.optimizer.rates(total, total)
        rates = [1.0 if known is None else float(known[min(step, total - 1)]) for step, _ in states]
        with self._alone():
            training, asked = self._prepared(gather(card.train, chosen)), self._prepared(arrays)

            def losses(params: Any, batch: Batch) -> Array:
                def one(row: Batch) -> Array:
                    alone = jax.tree.map(lambda array: array[None], row)
                    variables, alone = run.experiment.precision.cast({"params": params, **every}, alone)
                    mean, _ = task.loss(variables, alone, stream_key(run.experiment.seed, "model", 0), False)
                    return jnp.asarray(mean.sum)

                return jax.vmap(one)(batch)

            return examples.influence(losses, [params for _, params in states], rates, training, asked)

    def maximised_input(self, output: Any, *, layer: str = "", noise: float = 0.3, **options: Any) -> np.ndarray:
        """Inputs, as the model takes them, that make outputs large, from noise; see `diagnose.maximised_input`.

        Args:
            output: numbers of outputs, `[N]`, an input for each; or a function of what the layer gives for one input, `[1]`.
            layer: as for `embedding`.
            noise: standard deviation of the inputs at the start. Zeros may have no gradient, where all ReLU units are off.
            **options: of `diagnose.maximised_input`; its `seed` is also that of the noise.
        """
        count = 1 if callable(output) else len(np.atleast_1d(output))
        spec = self.run.parts.batch_spec["inputs"]
        chosen = output if callable(output) else np.atleast_1d(output)
        with self._alone():
            variables = jax.device_get(self.run.variables)
            drawn = np.random.default_rng(options.get("seed", 0)).normal(0, noise, (count, *spec.shape[1:]))
            start = jnp.asarray(drawn, spec.dtype)
            return units.maximised_input(self._apply({}, layer), variables, start, chosen, **options)

    def _attributed(self, method: str, inputs: Any, output: Output, **options: Any) -> Explanation:
        arrays = self._checked(inputs)
        with self._alone():
            batch = self._prepared(arrays)
            found = getattr(attribution, method)(
                self._apply(batch), jax.device_get(self.run.variables), batch["inputs"], output, **options
            )
        values, gap = found if isinstance(found, attribution.Integrated) else (found, None)
        return Explanation(method, np.asarray(arrays["inputs"]), values, self._captions(inputs), gap)

    def _captions(self, inputs: Any) -> tuple[str, ...]:
        if self.run.parts.dataset.card.target_kind != "class":
            return ()
        return tuple(map(str, self.run.predict(inputs, names=True)))

    def _apply(self, batch: Batch, layer: str = "") -> attribution.Apply:
        """`(variables, inputs)` to the outputs of the task, or of a layer; the rest of the batch is as it is."""
        task, precision = self.run.parts.task, self.run.experiment.precision
        if not layer:
            return lambda variables, inputs: task.outputs(*precision.cast(variables, {**batch, "inputs": inputs}))
        module, mode = in_mode(task.model, train=False)
        found = units.layer_output(module, layer, **mode)

        def apply(variables: Any, inputs: Any) -> Array:
            variables, cast = precision.cast(variables, {"inputs": inputs})
            return jnp.asarray(found(variables, cast["inputs"]), jnp.float32)

        return apply

    def _checked(self, inputs: Any) -> dict[str, Any]:
        """Raw arrays of a model with one input."""
        parts = self.run.parts
        if parts.dataset.several:
            raise UsageError("explanations are of models with one input; use the functions of jaxnets.diagnose")
        return dict(check_given(inputs, parts.dataset.preparation, most_positions(parts.task.model)))

    def _split(self, split: str) -> dict[str, Any]:
        """The inputs of a split."""
        self._check_data()
        arrays = getattr(self.run.parts.dataset, split)
        return {name: array[:] for name, array in arrays.items() if name in self.run.parts.dataset.preparation.names}

    def _check_data(self) -> None:
        if self.run.parts.dataset.hollow:
            raise UsageError("this run was opened without its data; give them: open_run(directory, dataset=...)")

    def _prepared(self, arrays: Any) -> Batch:
        """Raw arrays as the batch of a task."""
        return prepared(self.run.parts, arrays)

    def _checkpoints(self, steps: Sequence[int] | None) -> list[tuple[int, Any]]:
        """Steps and parameters at them."""
        run = self.run
        if run.directory is None:
            if steps is not None:
                raise UsageError("steps chooses among checkpoints, and this run has none; give fit a run_dir")
            return [(int(run.state.step), jax.device_get(run.params))]
        like = abstract(run.parts.abstract, run.parts.shardings)
        with (
            jax.set_mesh(run.parts.mesh),
            Checkpoints(run.directory / "checkpoints", keep=run.parts.choice.keep) as kept,
        ):
            missing = sorted(set(steps or ()) - set(kept.steps))
            if missing:
                raise UsageError(f"there is no checkpoint of step {missing[0]}; there are {kept.steps}")
            chosen = kept.steps if steps is None else list(steps)
            found = []
            for step in chosen:
                try:
                    found.append((step, jax.device_get(kept.restore(step, like)[0].params)))
                except DamagedError as error:
                    if steps is not None:
                        raise
                    note(f"{error}; it is left out")
            return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One device, so that any number of examples will do."""
        with jax.set_mesh(make_mesh(MeshShape(), devices=jax.local_devices()[:1])):
            yield
