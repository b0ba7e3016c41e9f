"""Optimizers (Optax chains as small frozen dataclasses), learning-rate schedules and weight averaging."""

from jaxnets.optim.averaging import EMA as EMA
from jaxnets.optim.by_depth import ByDepth as ByDepth
from jaxnets.optim.given import ByPath as ByPath
from jaxnets.optim.given import Frozen as Frozen
from jaxnets.optim.given import Named as Named
from jaxnets.optim.given import Optax as Optax
from jaxnets.optim.given import as_optimizer as as_optimizer
from jaxnets.optim.later import Later as Later
from jaxnets.optim.local_sgd import LocalSGD as LocalSGD
from jaxnets.optim.mup import MuP as MuP
from jaxnets.optim.mup import mup as mup
from jaxnets.optim.optimizers import SGD as SGD
from jaxnets.optim.optimizers import Adam as Adam
from jaxnets.optim.optimizers import AdamW as AdamW
from jaxnets.optim.optimizers import Optimizer as Optimizer
from jaxnets.optim.plateau import Plateau as Plateau
from jaxnets.optim.schedules import Constant as Constant
from jaxnets.optim.schedules import Schedule as Schedule
from jaxnets.optim.schedules import WarmupCosine as WarmupCosine
from jaxnets.optim.schedules import WarmupLinear as WarmupLinear
from jaxnets.optim.stochastic_rounding import StochasticRounding as StochasticRounding

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "AdamW",
    "ByDepth",
    "ByPath",
    "Constant",
    "Frozen",
    "Later",
    "LocalSGD",
    "MuP",
    "Named",
    "Optax",
    "Optimizer",
    "Plateau",
    "Schedule",
    "StochasticRounding",
    "WarmupCosine",
    "WarmupLinear",
    "as_optimizer",
    "mup",
]
