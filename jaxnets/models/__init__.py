"""Models: one family per file, each a Flax Linen module (a frozen dataclass with pure `init` and `apply`)."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.models.airbench import AirBench as AirBench
    from jaxnets.models.autoencoder import Autoencoder as Autoencoder
    from jaxnets.models.autoencoder import ConvAutoencoder as ConvAutoencoder
    from jaxnets.models.beam import beam_search as beam_search
    from jaxnets.models.beam import greedy as greedy
    from jaxnets.models.capsules import CapsNet as CapsNet
    from jaxnets.models.cifar_resnet import CifarResNet as CifarResNet
    from jaxnets.models.cnn import CNN as CNN
    from jaxnets.models.coatnet import CoAtNet as CoAtNet
    from jaxnets.models.convnext import ConvNeXt as ConvNeXt
    from jaxnets.models.convolutional_lstm import ConvLSTMForecaster as ConvLSTMForecaster
    from jaxnets.models.dcgan import DCGANCritic as DCGANCritic
    from jaxnets.models.dcgan import DCGANGenerator as DCGANGenerator
    from jaxnets.models.generation import Decoder as Decoder
    from jaxnets.models.generation import Sampling as Sampling
    from jaxnets.models.generation import generate as generate
    from jaxnets.models.graph import GAT as GAT
    from jaxnets.models.graph import GCN as GCN
    from jaxnets.models.graph import GIN as GIN
    from jaxnets.models.graph import Graph as Graph
    from jaxnets.models.graph import GraphSAGE as GraphSAGE
    from jaxnets.models.hopfield import Hopfield as Hopfield
    from jaxnets.models.hybrid_language_model import HybridLanguageModel as HybridLanguageModel
    from jaxnets.models.language_model import LanguageModel as LanguageModel
    from jaxnets.models.layered import Layered as Layered
    from jaxnets.models.layered import Layers as Layers
    from jaxnets.models.layered import factorised as factorised
    from jaxnets.models.layered import with_layers as with_layers
    from jaxnets.models.lenet import LeNet5 as LeNet5
    from jaxnets.models.lora import LoRA as LoRA
    from jaxnets.models.mixture_of_experts import Experts as Experts
    from jaxnets.models.mlp import MLP as MLP
    from jaxnets.models.neural_ode import NeuralODE as NeuralODE
    from jaxnets.models.patch_predictor import PatchPredictor as PatchPredictor
    from jaxnets.models.perceptron import Perceptron as Perceptron
    from jaxnets.models.rbf import RBF as RBF
    from jaxnets.models.rcnn import RCNN as RCNN
    from jaxnets.models.recurrent import RNN as RNN
    from jaxnets.models.resnet import ResNet as ResNet
    from jaxnets.models.resnet9 import ResNet9 as ResNet9
    from jaxnets.models.transformer import Pair as Pair
    from jaxnets.models.transformer import Seq2SeqTransformer as Seq2SeqTransformer
    from jaxnets.models.transformer import TransformerEncoder as TransformerEncoder
    from jaxnets.models.unet import UNet as UNet
    from jaxnets.models.vae import VAE as VAE
    from jaxnets.models.vit import ViT as ViT
    from jaxnets.models.vqvae import VQVAE as VQVAE

# Public name to file; see `jaxnets.core.lazy`.
FILES = {
    "AirBench": "airbench",
    "PatchPredictor": "patch_predictor",
    "Autoencoder": "autoencoder",
    "ConvAutoencoder": "autoencoder",
    "beam_search": "beam",
    "greedy": "beam",
    "CNN": "cnn",
    "CapsNet": "capsules",
    "CoAtNet": "coatnet",
    "ConvNeXt": "convnext",
    "ConvLSTMForecaster": "convolutional_lstm",
    "DCGANCritic": "dcgan",
    "DCGANGenerator": "dcgan",
    "Decoder": "generation",
    "Sampling": "generation",
    "generate": "generation",
    "GAT": "graph",
    "GCN": "graph",
    "GIN": "graph",
    "Graph": "graph",
    "GraphSAGE": "graph",
    "HybridLanguageModel": "hybrid_language_model",
    "Hopfield": "hopfield",
    "LanguageModel": "language_model",
    "Layered": "layered",
    "Layers": "layered",
    "factorised": "layered",
    "with_layers": "layered",
    "LeNet5": "lenet",
    "LoRA": "lora",
    "Experts": "mixture_of_experts",
    "MLP": "mlp",
    "NeuralODE": "neural_ode",
    "Perceptron": "perceptron",
    "RBF": "rbf",
    "RCNN": "rcnn",
    "RNN": "recurrent",
    "CifarResNet": "cifar_resnet",
    "ResNet": "resnet",
    "ResNet9": "resnet9",
    "Pair": "transformer",
    "Seq2SeqTransformer": "transformer",
    "TransformerEncoder": "transformer",
    "UNet": "unet",
    "VAE": "vae",
    "ViT": "vit",
    "VQVAE": "vqvae",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "CNN",
    "GAT",
    "GCN",
    "GIN",
    "MLP",
    "RBF",
    "RCNN",
    "RNN",
    "VAE",
    "VQVAE",
    "AirBench",
    "Autoencoder",
    "CapsNet",
    "CifarResNet",
    "CoAtNet",
    "ConvAutoencoder",
    "ConvLSTMForecaster",
    "ConvNeXt",
    "DCGANCritic",
    "DCGANGenerator",
    "Decoder",
    "Experts",
    "Graph",
    "GraphSAGE",
    "Hopfield",
    "HybridLanguageModel",
    "LanguageModel",
    "Layered",
    "Layers",
    "LeNet5",
    "LoRA",
    "NeuralODE",
    "Pair",
    "PatchPredictor",
    "Perceptron",
    "ResNet",
    "ResNet9",
    "Sampling",
    "Seq2SeqTransformer",
    "TransformerEncoder",
    "UNet",
    "ViT",
    "beam_search",
    "factorised",
    "generate",
    "greedy",
    "with_layers",
]
