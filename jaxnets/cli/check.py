"""`jaxnets check`: find problems of a configuration before training."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Options of `jaxnets check`."""

    report: str = ""
    """An HTML page to write the findings and their figures to, such as check.html."""
    only: tuple[str, ...] = ()
    """Names of the checks to make, such as overfit mixing; all by default."""
    skip: tuple[str, ...] = ()
    """Names of checks to leave out, such as those that the model violates by design."""
    examples: int = 16
    """Training examples that the checks use; fewer if they are large."""
    seconds: float = 6.0
    """The time limit for memorising a few examples, without compilation."""

    def __post_init__(self) -> None:
        if self.examples < 4:
            raise ValueError(f"examples is at least 4, got {self.examples}")
        if not self.seconds > 0:
            raise ValueError(f"seconds is above 0, got {self.seconds}")
        if self.report and not self.report.endswith((".html", ".htm")):
            raise ValueError(f"report is the name of an HTML page, such as check.html; got {self.report!r}")


def run(loaded: Any, experiment: Any, options: CheckOptions, *, initial: Any = None, dataset: Any = None) -> int:
    """Run the checks and print them; returns 1 if one is red."""
    from jaxnets.core.files import user_path
    from jaxnets.preflight.check import check_experiment
    from jaxnets.preflight.show import print_report, progress_line, write_page

    with progress_line("auto") as say:
        report = check_experiment(
            experiment,
            dataset=dataset,
            initial=initial,
            only=options.only,
            skip=options.skip,
            examples=options.examples,
            seconds=options.seconds,
            say=say,
            title=loaded.name,
        )
    print_report(report)
    if options.report:
        print(f"report: {write_page(report, Path(user_path(options.report)))}")
    return 0 if report.passed else 1
