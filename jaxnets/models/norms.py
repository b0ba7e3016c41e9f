"""Normalisation layers that are exact for features far from 0.

By default Linen computes the variance as a difference of two moments. That is faster, but loses all digits if the mean is
large: in float32, for values around 2000 with deviation 1, no digit is left. The layers here average squared distances from
the mean. They first subtract one of the values. In exact arithmetic that changes neither result nor gradient. In float32 it
keeps the digits of the mean, which for values around 1e6 would be off by a tenth of their deviation.

Parameters, statistics and their names are Linen's. 16-bit inputs are not shifted: they do not hold such digits.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxnets.core.wide import wide


class BatchNorm(nn.BatchNorm):
    """Batch normalisation (Ioffe and Szegedy 2015) over the last dim's features."""

    use_fast_variance: bool = False
    """Whether the variance is the mean square minus the squared mean."""
    ghost: int = 0
    """Examples whose statistics are taken together while training (Hoffer et al. 2017), a divisor of the batch; 0: all. The
    running statistics then are those of the mean of these parts' means and variances."""

    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None) -> Array:
        """`[B, ..., C]` to the same; `mask`, which broadcasts to `x`, selects the values for the statistics."""
        running = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        if self.ghost and not running and not self.is_initializing():
            return self._by_parts(x, mask)
        if running or self.axis != -1 or not _exact(x):
            return super().__call__(x, use_running_average, mask=mask)
        rows = x.reshape(-1, x.shape[-1])
        # The first row may be masked and hold any value, so with a mask the shift is the mean of the unmasked rows.
        shift = rows[0] if mask is None else jnp.mean(x, axis=range(x.ndim - 1), where=mask.astype(bool))
        shift = jax.lax.stop_gradient(shift)
        y = super().__call__(x - shift.reshape(*(1,) * (x.ndim - 1), -1), use_running_average, mask=mask)
        if not self.is_initializing():
            mean: Any = self.get_variable("batch_stats", "mean")
            self.put_variable("batch_stats", "mean", mean + (1 - self.momentum) * shift)
        return y

    def _by_parts(self, x: Array, mask: Array | None) -> Array:
        """Each `ghost` examples in a row are normalised by statistics of their own. In a row, so they are on one device."""
        B, C = x.shape[0], x.shape[-1]
        if B % self.ghost or self.axis != -1 or mask is not None or not (self.use_scale and self.use_bias):
            raise ValueError(
                f"BatchNorm.ghost {self.ghost} divides the batch, and needs features last, no mask, scale and bias; the batch "
                f"is {B}"
            )
        exact = wide(x).reshape(B // self.ghost, -1, C)
        mean = exact.mean(1)
        centred = exact - mean[:, None]
        variance = jnp.square(centred).mean(1)
        for name, new in (("mean", mean), ("var", variance)):
            old: Any = self.get_variable("batch_stats", name)
            self.put_variable("batch_stats", name, self.momentum * old + (1 - self.momentum) * new.mean(0))
        scale: Any = self.get_variable("params", "scale")
        bias: Any = self.get_variable("params", "bias")
        y = centred * jax.lax.rsqrt(variance + self.epsilon)[:, None] * scale[None, None] + bias[None, None]
        return y.reshape(x.shape).astype(jnp.result_type(x.dtype, scale.dtype))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016)."""

    use_fast_variance: bool = False
    """Whether the variance is the mean square minus the squared mean."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """`[..., C]` to the same."""
        if _exact(x) and self.reduction_axes == -1 and mask is None:
            x = x - jax.lax.stop_gradient(x[..., :1])
        return super().__call__(x, mask=mask)


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018)."""

    use_fast_variance: bool = False
    """Whether the variance is the mean square minus the squared mean."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """`[B, ..., C]` to the same."""
        groups, features = self.num_groups, x.shape[-1]
        if _exact(x) and mask is None and groups and self.reduction_axes is None and features % groups == 0:
            first = x.reshape(x.shape[0], -1, groups, features // groups)[:, :1, :, :1]
            shift = jnp.broadcast_to(first, (x.shape[0], 1, groups, features // groups))
            x = x - jax.lax.stop_gradient(shift.reshape(x.shape[0], *(1,) * (x.ndim - 2), features))
        return super().__call__(x, mask=mask)


def _exact(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32)
