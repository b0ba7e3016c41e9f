"""What a configuration's model is made of: a table of layers."""

from typing import Any

import flax.linen as nn
import jax
from rich.console import Console

from jaxnets.assemble import assemble, batch_spec
from jaxnets.config import Experiment


def summarize(name: str, experiment: Experiment) -> None:
    """Print layers with shapes, parameters and FLOPs (forward and backward, one batch), and what the state takes."""
    parts = assemble(experiment)
    batch = batch_spec(parts.dataset, experiment.batch_size)
    inputs = parts.task.inputs_of(jax.tree.map(lambda a: jax.numpy.zeros(a.shape, a.dtype), batch))
    tabulate = nn.tabulate(
        parts.task.model,
        {"params": jax.random.key(0), "dropout": jax.random.key(0)},
        compute_flops=True,
        compute_vjp_flops=True,
        console_kwargs={"width": 140, "force_terminal": False},
    )
    print(tabulate(inputs))
    console = Console(highlight=False)
    state = parts.abstract
    console.print(f"{name}: {parts.parameters:,} parameters, batch of {experiment.batch_size}")
    for label, tree in (("parameters", state.params), ("optimizer", state.opt_state), ("average", state.average)):
        console.print(f"  {label:<12}{_bytes(tree):>12}")
    console.print(f"  {'data':<12}{parts.dataset.nbytes / 1e6:>9.2f} MB  ({'device' if parts.resident else 'host'})")
    console.print(f"  steps in one dispatch: {parts.program.capacity}")


def _bytes(tree: Any) -> str:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return f"{size / 1e6:.2f} MB"
