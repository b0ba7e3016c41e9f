"""Keras 3 on its JAX back end. `fit`: as in the tutorials; `many`: 20 steps in one execution."""

import keras
from workloads import LEARNING_RATE, WEIGHT_DECAY


def build(workload, variant):
    x, y = workload.data()
    layers = keras.layers
    if workload.kind == "mlp":
        body = [layers.Dense(width, activation="relu") for width in workload.widths]
    else:
        body = []
        for width in workload.widths:
            body += [layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
        body += [layers.Flatten(), layers.Dense(128, activation="relu")]
    model = keras.Sequential([keras.Input(workload.input_shape), *body, layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=20 if variant == "many" else 1,
    )

    def run(steps):
        # fit() runs whole epochs, so the data are cut to the requested steps.
        need = steps * workload.batch
        repeat = -(-need // len(x))
        xs = x[:need] if repeat == 1 else x
        ys = y[: len(xs)]
        done, loss = 0, 0.0
        while done < steps:
            part = min(steps - done, len(xs) // workload.batch)
            history = model.fit(
                xs[: part * workload.batch], ys[: part * workload.batch], batch_size=workload.batch, verbose=0
            )
            done, loss = done + part, history.history["loss"][-1]
        return loss

    return run
