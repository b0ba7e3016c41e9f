"""The few operations that decide the speed of training, each with a plain reference."""

from jaxnets.ops.attention import dot_product_attention as dot_product_attention
from jaxnets.ops.axes import name_axes as name_axes
from jaxnets.ops.convolution import conv_general_dilated as conv_general_dilated
from jaxnets.ops.dense import dot_general as dot_general
from jaxnets.ops.initialisers import Initialiser as Initialiser
from jaxnets.ops.pooling import average_pool as average_pool
from jaxnets.ops.pooling import blur_pool as blur_pool
from jaxnets.ops.pooling import max_pool as max_pool
from jaxnets.ops.transfer import to_devices as to_devices
