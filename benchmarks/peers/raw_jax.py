"""A hand-written JAX loop: a jitted step with donation, data on the device, the loss read at the end."""

import jax
import jax.numpy as jnp
import optax
from workloads import LEARNING_RATE, WEIGHT_DECAY


def init_dense(key, fan_in, fan_out):
    scale = fan_in**-0.5
    return {"w": jax.random.normal(key, (fan_in, fan_out)) * scale, "b": jnp.zeros(fan_out)}


def build(workload, variant):
    x, y = (jax.device_put(a) for a in workload.data())
    keys = iter(jax.random.split(jax.random.key(0), 8))
    if workload.kind == "mlp":
        sizes = (*workload.input_shape, *workload.widths, 10)
        params = [init_dense(next(keys), a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]

        def apply(params, h):
            for layer in params[:-1]:
                h = jax.nn.relu(h @ layer["w"] + layer["b"])
            return h @ params[-1]["w"] + params[-1]["b"]

    else:
        a, b = workload.widths
        size = workload.input_shape[0] // 4
        params = {
            "conv": [
                {"w": jax.random.normal(next(keys), (3, 3, i, o)) * (9 * i) ** -0.5, "b": jnp.zeros(o)}
                for i, o in ((workload.input_shape[-1], a), (a, b))
            ],
            "dense": [init_dense(next(keys), size * size * b, 128), init_dense(next(keys), 128, 10)],
        }

        def apply(params, h):
            for layer in params["conv"]:
                numbers = ("NHWC", "HWIO", "NHWC")
                h = jax.lax.conv_general_dilated(h, layer["w"], (1, 1), "SAME", dimension_numbers=numbers)
                h = jax.nn.relu(h + layer["b"])
                h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            h = h.reshape(h.shape[0], -1)
            first, last = params["dense"]
            return jax.nn.relu(h @ first["w"] + first["b"]) @ last["w"] + last["b"]

    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def loss_of(params, inputs, labels):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, inputs), labels).mean()

    def step(params, state, rows):
        loss, gradient = jax.value_and_grad(loss_of)(params, x[rows], y[rows])
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    step = jax.jit(step, donate_argnums=(0, 1))
    held = [params, optimizer.init(params)]

    def run(steps):
        for rows in workload.order(steps):
            held[0], held[1], loss = step(held[0], held[1], rows)
        return loss.block_until_ready()

    return run
