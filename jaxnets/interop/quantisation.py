"""Training in int8 and float8 by Qwix (https://github.com/google/qwix): `pip install jaxnets[qwix]`.

Products of dense layers, convolutions and attention take both operands in 8 bits, with a scale for each channel, and add up in
more bits. The weights that the optimizer sees stay as they are, and gradients are computed as if nothing were rounded
(straight-through).
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn

from jaxnets.core.errors import UsageError
from jaxnets.models.wrapper import Wrapper, changed_fields


class PlainProducts(Wrapper):
    """A model whose layers use the products of `jax.lax`, which Qwix replaces, and not those of `jaxnets.ops`."""

    def interceptor(self, seen: list[str]) -> Callable[..., Any]:
        """See `Wrapper`."""
        del seen

        def plain(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            layer, fields = context.module, {}
            if isinstance(layer, nn.Dense | nn.DenseGeneral):
                fields = {"dot_general": None}
            elif isinstance(layer, nn.Conv):
                fields = {"conv_general_dilated": None}
            with changed_fields(layer, **fields):
                return call(*args, **kwargs)

        return plain


def quantised(model: nn.Module, kind: Literal["int8", "float8_e4m3fn"] = "int8", *, at: str = ".*") -> nn.Module:
    """The model with products in 8 bits, in training and in evaluation; the same parameters.

    Args:
        model: a Linen module.
        kind: the format of both operands.
        at: which layers: a regular expression for their paths.

    Raises:
        UsageError: Qwix is not installed.
    """
    try:
        import qwix
    except ImportError as error:
        raise UsageError("quantised needs Qwix; install it with: pip install 'jaxnets[qwix]'") from error
    rule = qwix.QuantizationRule(module_path=at, weight_qtype=kind, act_qtype=kind)
    return PlainProducts(qwix.quantize_model(model, qwix.QtProvider([rule])))
