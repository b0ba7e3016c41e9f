"""What is computed: one family of networks a file, each a frozen dataclass with pure `init` and `apply`."""

from jaxnets.models.cnn import CNN as CNN
from jaxnets.models.mlp import MLP as MLP
from jaxnets.models.perceptron import Perceptron as Perceptron
from jaxnets.models.resnet import CifarResNet as CifarResNet

__all__ = ["CNN", "MLP", "CifarResNet", "Perceptron"]
