"""Optimizers (Optax chains as small frozen dataclasses), schedules, changes of the gradient, penalties and averages."""

from jaxnets.optim.adaptive import LAMB as LAMB
from jaxnets.optim.adaptive import Adafactor as Adafactor
from jaxnets.optim.adaptive import Adagrad as Adagrad
from jaxnets.optim.adaptive import Lion as Lion
from jaxnets.optim.adaptive import RMSProp as RMSProp
from jaxnets.optim.averaging import EMA as EMA
from jaxnets.optim.averaging import SWA as SWA
from jaxnets.optim.averaging import Average as Average
from jaxnets.optim.by_depth import ByDepth as ByDepth
from jaxnets.optim.full_batch import LBFGS as LBFGS
from jaxnets.optim.given import ByPath as ByPath
from jaxnets.optim.given import Frozen as Frozen
from jaxnets.optim.given import Named as Named
from jaxnets.optim.given import Optax as Optax
from jaxnets.optim.given import as_optimizer as as_optimizer
from jaxnets.optim.gradient import Gradient as Gradient
from jaxnets.optim.later import Later as Later
from jaxnets.optim.later import Until as Until
from jaxnets.optim.local_sgd import LocalSGD as LocalSGD
from jaxnets.optim.muon import Muon as Muon
from jaxnets.optim.mup import MuP as MuP
from jaxnets.optim.mup import mup as mup
from jaxnets.optim.optimizers import SGD as SGD
from jaxnets.optim.optimizers import Adam as Adam
from jaxnets.optim.optimizers import AdamW as AdamW
from jaxnets.optim.optimizers import Optimizer as Optimizer
from jaxnets.optim.penalty import Penalty as Penalty
from jaxnets.optim.plateau import Plateau as Plateau
from jaxnets.optim.schedule_shapes import WSD as WSD
from jaxnets.optim.schedule_shapes import Exponential as Exponential
from jaxnets.optim.schedule_shapes import InverseSquareRoot as InverseSquareRoot
from jaxnets.optim.schedule_shapes import InverseTime as InverseTime
from jaxnets.optim.schedule_shapes import OneCycle as OneCycle
from jaxnets.optim.schedule_shapes import Restarts as Restarts
from jaxnets.optim.schedule_shapes import Steps as Steps
from jaxnets.optim.schedules import Constant as Constant
from jaxnets.optim.schedules import Schedule as Schedule
from jaxnets.optim.schedules import WarmupCosine as WarmupCosine
from jaxnets.optim.schedules import WarmupLinear as WarmupLinear
from jaxnets.optim.stochastic_rounding import StochasticRounding as StochasticRounding
from jaxnets.optim.wrappers import SAM as SAM
from jaxnets.optim.wrappers import Lookahead as Lookahead
from jaxnets.optim.wrappers import ScheduleFree as ScheduleFree

__all__ = [
    "EMA",
    "LAMB",
    "LBFGS",
    "SAM",
    "SGD",
    "SWA",
    "WSD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Average",
    "ByDepth",
    "ByPath",
    "Constant",
    "Exponential",
    "Frozen",
    "Gradient",
    "InverseSquareRoot",
    "InverseTime",
    "Later",
    "Lion",
    "LocalSGD",
    "Lookahead",
    "MuP",
    "Muon",
    "Named",
    "OneCycle",
    "Optax",
    "Optimizer",
    "Penalty",
    "Plateau",
    "RMSProp",
    "Restarts",
    "Schedule",
    "ScheduleFree",
    "Steps",
    "StochasticRounding",
    "Until",
    "WarmupCosine",
    "WarmupLinear",
    "as_optimizer",
    "mup",
]
