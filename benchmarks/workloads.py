"""Workloads, the same for every peer: sizes, data and optimizer."""

import dataclasses

import numpy as np

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2


@dataclasses.dataclass(frozen=True)
class Workload:
    """Classification into 10 classes with AdamW at a constant learning rate."""

    kind: str  # "mlp" or "cnn"
    input_shape: tuple[int, ...]
    widths: tuple[int, ...]
    batch: int
    examples: int

    def data(self):
        """Inputs float32 and labels int32; the labels are the argmax of a linear map of the inputs."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.examples, *self.input_shape), dtype=np.float32)
        flat = x.reshape(self.examples, -1)
        y = (flat @ rng.standard_normal((flat.shape[1], 10), dtype=np.float32)).argmax(1)
        return x, y.astype(np.int32)

    def order(self, steps, seed=0):
        """Rows of each batch, `[steps, batch]`: a fresh permutation each epoch, the remainder left out."""
        rng, per = np.random.default_rng(seed), self.examples // self.batch
        epochs = -(-steps // per)
        rows = [rng.permutation(self.examples)[: per * self.batch].reshape(per, self.batch) for _ in range(epochs)]
        return np.concatenate(rows)[:steps].astype(np.int32)


WORKLOADS = {
    # So small that the time is the overhead of dispatching a step.
    "tiny": Workload("mlp", (16,), (32, 32), 32, 6400),
    "mlp": Workload("mlp", (784,), (512, 512), 128, 25600),
    # Two 3x3 convolutions with 32 and 64 channels, each with a 2x2 max pool, and 128 dense units.
    "cnn": Workload("cnn", (28, 28, 1), (32, 64), 128, 2560),
}
