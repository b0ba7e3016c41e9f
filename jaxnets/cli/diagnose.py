"""`jaxnets diagnose`: a trained run's curvature, robustness and explanations, into its report."""

import dataclasses
from collections.abc import Sequence

from jaxnets.cli.flags import parse
from jaxnets.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DiagnoseOptions:
    """Options of `jaxnets diagnose`."""

    only: tuple[str, ...] = ()
    """Sections to make: curvature, robustness, explanation; all by default."""
    skip: tuple[str, ...] = ()
    """Sections to leave out."""
    examples: int = 256
    """Most examples of the training and of the test split that are looked at."""
    seed: int = 0
    """Root of all random choices."""
    json: bool = False
    """Print one JSON object instead of the table."""

    def __post_init__(self) -> None:
        if self.examples < 4:
            raise ValueError(f"examples is at least 4, got {self.examples}")


def run(arguments: Sequence[str]) -> int:
    """`jaxnets diagnose RUN [flags]`."""
    directory, *flags = arguments
    if flags and not flags[0].startswith("-"):
        raise UsageError(f"`jaxnets diagnose` takes one run directory and flags, got {' '.join(arguments)}")
    options = parse(DiagnoseOptions, flags, "jaxnets diagnose RUN")
    from jaxnets.postflight.of_run import diagnosis, into_report, page_of
    from jaxnets.preflight.show import progress_line
    from jaxnets.runs.open import open_run

    trained = open_run(directory)
    assert trained.directory is not None
    page_of(trained.directory)  # before minutes of work
    with progress_line("auto", "diagnosing") as say:
        found = diagnosis(
            trained, only=options.only, skip=options.skip, examples=options.examples, seed=options.seed, say=say
        )
    page = into_report(found, trained.directory)
    if options.json:
        print(found.as_json())
        return 0
    from jaxnets.cli.runs import print_table

    print_table(*found.table())
    for note in found.notes():
        print(f"left out: {note}")
    print(f"report: {page}")
    return 0
