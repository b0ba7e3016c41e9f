"""`jaxnets check`: what would go wrong with a configuration, before it is trained."""

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
    """Names of checks to leave out, for what the model does by design."""
    examples: int = 16
    """Training examples that the model sees; fewer where they are large."""
    seconds: float = 6.0
    """The most that learning a few examples by heart may take, without compilation."""

    def __post_init__(self) -> None:
        if self.examples < 4:
            raise ValueError(f"examples is at least 4, got {self.examples}")
        if not self.seconds > 0:
            raise ValueError(f"seconds is above 0, got {self.seconds}")
        if self.report and not self.report.endswith((".html", ".htm")):
            raise ValueError(f"report is the name of an HTML page, such as check.html; got {self.report!r}")


def run(loaded: Any, experiment: Any, options: CheckOptions, *, initial: Any = None, dataset: Any = None) -> int:
    """Make the checks and print them; 1 where one is red."""
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
