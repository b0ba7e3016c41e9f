"""Import and export of weights and files of other libraries."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.interop.functions import Functions as Functions
    from jaxnets.interop.functions import from_equinox as from_equinox
    from jaxnets.interop.functions import from_nnx as from_nnx
    from jaxnets.interop.huggingface import export_language_model as export_language_model
    from jaxnets.interop.huggingface import language_model_from as language_model_from
    from jaxnets.interop.quantisation import quantised as quantised
    from jaxnets.interop.safetensors import read_safetensors as read_safetensors
    from jaxnets.interop.safetensors import write_safetensors as write_safetensors
    from jaxnets.interop.weights import GPT2 as GPT2
    from jaxnets.interop.weights import LLAMA2_C as LLAMA2_C
    from jaxnets.interop.weights import cifar_resnet as cifar_resnet
    from jaxnets.interop.weights import llama as llama
    from jaxnets.interop.weights import load_weights as load_weights
    from jaxnets.interop.weights import save_weights as save_weights
    from jaxnets.interop.weights import torchvision_resnet as torchvision_resnet

# The file of each name; see `jaxnets.core.lazy`.
FILES = {
    "Functions": "functions",
    "from_equinox": "functions",
    "from_nnx": "functions",
    "cifar_resnet": "weights",
    "export_language_model": "huggingface",
    "GPT2": "weights",
    "LLAMA2_C": "weights",
    "language_model_from": "huggingface",
    "llama": "weights",
    "load_weights": "weights",
    "quantised": "quantisation",
    "read_safetensors": "safetensors",
    "save_weights": "weights",
    "torchvision_resnet": "weights",
    "write_safetensors": "safetensors",
}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "GPT2",
    "LLAMA2_C",
    "Functions",
    "cifar_resnet",
    "export_language_model",
    "from_equinox",
    "from_nnx",
    "language_model_from",
    "llama",
    "load_weights",
    "quantised",
    "read_safetensors",
    "save_weights",
    "torchvision_resnet",
    "write_safetensors",
]
