"""The multilayer perceptron.

Shapes: `B` batch, `N` input features, `F` hidden units, `C` outputs.
"""

from typing import Any, Literal

import flax.linen as nn
from jax import Array

from jaxnets.models.activations import Activation, activated
from jaxnets.models.layers import Dense, check_layers
from jaxnets.models.norms import BatchNorm, LayerNorm


class MLP(nn.Module):
    """Fully connected layers with an activation between them; inputs are flattened first."""

    widths: tuple[int, ...] = (128, 128)
    """Units of each hidden layer; an empty tuple makes a linear model."""
    outputs: int | None = None
    """Output units; None: as many as the task needs (classes, or 1 for regression)."""
    activation: Activation = "relu"
    """The non-linearity after every hidden layer: see `Activation` in `activations.py`."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation before each activation (layer: Ba et al. 2016; batch: Ioffe and Szegedy 2015)."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while training (Srivastava et al. 2014), in [0, 1)."""
    input_dropout: float = 0.0
    """Probability of dropping an input (a visible unit) while training, in [0, 1)."""
    inputs: int | None = None
    """Numbers in an example; None: as in the data. Any other value is checked against the data."""

    @classmethod
    def of(cls, *sizes: int, **fields: Any) -> "MLP":
        """A network from its layer sizes: `MLP.of(2, 4, 3, 2)` has 2 inputs, hidden layers of 4 and 3 units, 2 outputs.

        Args:
            sizes: sizes of all layers, inputs and outputs included; at least two.
            **fields: any other field.
        """
        if len(sizes) < 2:
            raise ValueError(
                f"MLP.of needs at least the numbers of inputs and outputs, as in MLP.of(2, 4, 2), got {sizes}"
            )
        inputs, *widths, outputs = sizes
        return cls(widths=tuple(widths), inputs=inputs, outputs=outputs, **fields)

    def __post_init__(self) -> None:
        check_layers(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Outputs `[B, C]` of inputs `[B, ...]`; `train` switches dropout and batch statistics on."""
        x = x.reshape(x.shape[0], -1)
        if self.inputs not in (None, x.shape[1]):
            raise ValueError(
                f"MLP has inputs={self.inputs}, but an example has {x.shape[1]} numbers; set inputs={x.shape[1]}, or leave it "
                f"out and the data decide"
            )
        x = nn.Dropout(self.input_dropout, deterministic=not train)(x)
        for index, width in enumerate(self.widths):
            # No bias before a normalisation, which has its own.
            x = Dense(width, use_bias=self.norm == "none", name=f"hidden_{index}")(x)
            if self.norm == "layer":
                x = LayerNorm(name=f"norm_{index}")(x)
            elif self.norm == "batch":
                x = BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{index}")(x)
            x = activated(self.activation, x, f"slope_{index}")
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Dense(self.outputs or 1, name="output")(x)
