"""Normalisation layers whose variance is that of the features' distances from their mean.

Linen's own take it as a difference of two moments by default, which is faster and loses all digits where features lie far
from 0: of values around 2000 with deviation 1, nothing is left in float32. These take the mean first. What remains is the
rounding of the mean itself, `2^-24` of its size: with values of 1e6 ± 1 the result is off by up to a tenth of a deviation, so
such features should be centred before they are narrowed to float32 (the data of this library are, by default).

Parameters, statistics and their names are Linen's.
"""

import flax.linen as nn


class BatchNorm(nn.BatchNorm):
    """Batch normalisation (Ioffe and Szegedy 2015)."""

    use_fast_variance: bool = False
    """Whether the variance is the mean square minus the squared mean."""


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016)."""

    use_fast_variance: bool = False
    """Whether the variance is the mean square minus the squared mean."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018)."""

    use_fast_variance: bool = False
    """Whether the variance is the mean square minus the squared mean."""
