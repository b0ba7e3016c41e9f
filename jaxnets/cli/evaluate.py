"""`jaxnets evaluate`: a trained run's metrics on its test split."""

from collections.abc import Sequence

from jaxnets.core.errors import UsageError


def run(arguments: Sequence[str]) -> int:
    """`jaxnets evaluate RUN`."""
    if len(arguments) != 1:
        raise UsageError(f"`jaxnets evaluate` takes one run directory, got {' '.join(arguments)}")
    from jaxnets.runs.open import open_run

    trained = open_run(arguments[0])
    for name, value in {"step": int(trained.state.step), **trained.evaluate()}.items():
        print(f"{name} {value:.6g}")
    return 0
