"""Other number formats and other devices give nearly the same."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnets.ops.random import stream_key
from jaxnets.preflight.finding import Finding, amber, green, red, skipped
from jaxnets.preflight.subject import Subject
from jaxnets.steps.precision import Precision


def bfloat16(subject: Subject) -> Finding:
    """Outputs in bfloat16 are those in float32, up to its three digits."""
    if not subject.answers:
        return skipped("the model is not called on the inputs alone")
    lower = Precision("bfloat16").cast(subject.variables, subject.batch)
    first, second = subject.outputs(subject.variables, subject.batch), subject.outputs(*lower)
    if not np.isfinite(second).all():
        return amber("outputs in bfloat16 are not finite.", "Train in float32, or find the operation that overflows.")
    apart = float(np.sqrt(np.square(first - second).mean())) / max(float(first.std()), 1e-12)
    facts = f"outputs in bfloat16 differ from float32 by {apart:.2g} of their deviation"
    if apart > 0.2:
        return amber(
            f"{facts}.",
            "Keep what is sensitive (large sums, exponentials, small differences) in float32, or train in it.",
        )
    return green(facts)


def devices(subject: Subject) -> Finding:
    """The loss of a batch that is spread over all devices is that of one."""
    here = jax.devices()
    if len(here) < 2:
        return skipped("there is one device")
    if not subject.by_gradient or subject.rows % len(here):
        return skipped(f"{len(here)} devices do not divide {subject.rows} examples, or there is no loss of one batch")
    mesh = Mesh(np.array(here), ("data",))
    spread = {
        name: jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))), array)
        for name, array in subject.batch.items()
    }
    whole = NamedSharding(mesh, PartitionSpec())
    variables = jax.tree.map(lambda a: jax.device_put(np.asarray(a), whole), subject.variables)
    state = {name: value for name, value in variables.items() if name != "params"}

    def loss(params: object, state: dict[str, object], batch: dict[str, object]) -> jax.Array:
        mean = subject.mean_loss(params, state, batch, False, stream_key(0, "model", 0))
        return jnp.asarray(mean.sum / jnp.maximum(mean.weight, 1e-30))

    with jax.set_mesh(mesh):
        there = float(jax.jit(loss, out_shardings=whole)(variables["params"], state, spread))
    total, weight = subject.loss(subject.variables, subject.batch)
    one = total / max(weight, 1e-30)
    apart = abs(there - one) / max(abs(one), 1e-6)
    facts = f"loss {one:.6g} on one device, {there:.6g} on {len(here)}"
    if apart > 1e-3:
        return red(
            f"{facts}.", "Look for what depends on the number of devices: a mean of means, a draw for each device."
        )
    return green(facts)
