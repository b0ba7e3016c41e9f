"""What three or more families share."""

import flax.linen as nn


def check_layers(model: nn.Module) -> None:
    """Raise `ValueError` unless a model's sizes are at least 1 and its dropout rates in [0, 1)."""
    for name in ("widths", "features", "dense", "convolutions", "inputs", "outputs", "width"):
        value = getattr(model, name, None)
        for size in value if isinstance(value, tuple) else (value,):
            if isinstance(size, int) and size < 1:
                raise ValueError(f"{type(model).__name__}.{name}: a size is at least 1, got {value}")
    for name in ("dropout", "input_dropout"):
        rate = getattr(model, name, 0.0)
        if isinstance(rate, int | float) and not 0 <= rate < 1:
            raise ValueError(f"{type(model).__name__}.{name} is a probability in [0, 1), got {rate}")
