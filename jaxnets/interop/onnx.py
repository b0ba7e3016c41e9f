"""Functions as ONNX files by jax2onnx, which ONNX Runtime and other programs run without JAX."""

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax import Array, export

from jaxnets.core.errors import UsageError, first_line


def check_onnx() -> None:
    """Raise `UsageError` if jax2onnx, onnx or ONNX Runtime is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401

        with _quiet():
            import jax2onnx  # noqa: F401
    except ImportError as error:
        raise UsageError(f'export to ONNX needs {error.name}: pip install "jaxnets[onnx]"') from None


def to_onnx(function: Callable[[dict[str, Array]], Array], inputs: Mapping[str, jax.ShapeDtypeStruct]) -> bytes:
    """A function of named arrays as the bytes of an ONNX file, with one output named "outputs".

    Args:
        function: pure; its result has the examples in its first dim.
        inputs: shape and dtype of each array. The first dim is replaced by one of any size.

    Raises:
        UsageError: jax2onnx is not installed, or has no ONNX form for an operation of the function.
    """
    check_onnx()
    import jax2onnx

    (size,) = export.symbolic_shape("batch")
    specs = [jax.ShapeDtypeStruct((size, *one.shape[1:]), one.dtype) for one in inputs.values()]
    names = list(inputs)

    def of_positions(*arrays: Array) -> Array:
        return function(dict(zip(names, arrays, strict=True)))

    try:
        # The Linen layers of jax2onnx add a bias to an array of more dims.
        with _quiet(), jax.numpy_rank_promotion("allow"):
            made = jax2onnx.to_onnx(of_positions, specs, input_names=names, output_names=["outputs"])
            return bytes(made.SerializeToString())
    except Exception as error:
        raise UsageError(f"jax2onnx cannot convert {_operation(error)}; use --format stablehlo") from error


def run_onnx(program: bytes, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The outputs of an ONNX file by ONNX Runtime on the CPU; raises `UsageError` if it cannot run the file."""
    check_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
        taken = {one.name: inputs[one.name] for one in session.get_inputs()}
        return np.asarray(session.run(None, taken)[0])
    except Exception as error:
        raise UsageError(
            f"ONNX Runtime cannot run the program ({first_line(error)}); use --format stablehlo"
        ) from error


def _operation(error: Exception) -> str:
    """The operation that jax2onnx does not have, or what it says."""
    named = re.search(r"primitive '([\w-]+)'", str(error))
    return f"the operation {named[1]}" if named else f"this model ({first_line(error)})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """jax2onnx prints and logs for its own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
