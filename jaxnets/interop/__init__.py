"""The way in and out: other libraries' weights and files."""

from typing import TYPE_CHECKING

from jaxnets.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.interop.huggingface import export_language_model as export_language_model
    from jaxnets.interop.huggingface import language_model_from as language_model_from

# The file of each name; see `jaxnets.lazy`.
FILES = {"export_language_model": "huggingface", "language_model_from": "huggingface"}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = ["export_language_model", "language_model_from"]
