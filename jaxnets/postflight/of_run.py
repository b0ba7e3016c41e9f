"""A run diagnosed: which sections there are, and where their pictures go."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxnets.core.errors import JaxnetsError, RunDirectoryError, UsageError, did_you_mean
from jaxnets.core.files import replacing
from jaxnets.postflight.curvature import curvature
from jaxnets.postflight.examined import Examined
from jaxnets.postflight.explanation import explanation
from jaxnets.postflight.robustness import robustness
from jaxnets.postflight.section import Diagnosis, Section
from jaxnets.report.page import PAGE

if TYPE_CHECKING:
    from jaxnets.runs.run import Run

SECTIONS: Mapping[str, Callable[[Examined], Section]] = {
    "curvature": curvature,
    "robustness": robustness,
    "explanation": explanation,
}
# Where the diagnosis stands in the report of a run.
BEGIN, END = "<!-- diagnosis -->", "<!-- end of the diagnosis -->"


def diagnosis(
    run: "Run",
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    examples: int = 256,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Diagnosis:
    """Measure and draw the sections of a diagnosis.

    Args:
        run: with its data.
        only: names of sections; () for all.
        skip: names of sections to leave out.
        examples: most examples of the training and of the test split that are looked at.
        seed: root of all random choices.
        say: called with the name of each section before it is made.

    Raises:
        UsageError: there is no such section, too few examples, or the run was opened without its data.
    """
    for name in (*only, *skip):
        if name not in SECTIONS:
            raise UsageError(f"there is no section {name!r}. {did_you_mean(name, SECTIONS)}")
    if examples < 4:
        raise UsageError(f"examples is at least 4, got {examples}")
    if run.parts.dataset.hollow:
        raise UsageError(
            "this run was opened without its data, which only its program held; give them in Python: "
            "jaxnets.diagnosis(jaxnets.open_run(directory, dataset=...))"
        )
    examined = Examined(run, examples, seed)
    found = []
    for name, section in SECTIONS.items():
        if name not in skip and (not only or name in only):
            say(name)
            try:
                found.append(section(examined))
            except (JaxnetsError, ValueError, TypeError, np.linalg.LinAlgError) as error:  # the other sections are kept
                found.append(Section(name, left_out=(f"it failed: {str(error).splitlines()[0][:200]}",)))
    title = run.directory.name if run.directory is not None else run.parts.dataset.name
    step = int(run.state.step) if run.best is None else run.best.step
    return Diagnosis(title, step, tuple(found))


def page_of(directory: Path) -> Path:
    """The report of a run; raises `RunDirectoryError` where there is none."""
    page = directory / PAGE
    if not page.exists():
        raise RunDirectoryError(f"{directory} has no report ({PAGE}); train the run to its end, which writes it")
    return page


def into_report(diagnosis: Diagnosis, directory: Path) -> Path:
    """Write the pictures of a diagnosis into `plots/` of a run directory, and all of it into the run's report.

    A diagnosis that the report has already is replaced. A report that is written again, as after further training, has none.

    Raises:
        RunDirectoryError: the run has no report, or it cannot be written.
    """
    page = page_of(directory)
    try:
        for name in SECTIONS:
            for path in (directory / "plots").glob(f"{name}-*.png"):
                path.unlink()
        diagnosis.write_pictures(directory / "plots")
        text = page.read_text(encoding="utf-8")
        before, found, rest = text.partition(BEGIN)
        if found:
            _, ended, after = rest.partition(END)
            text = before + (after if ended else rest)
        head, last, tail = text.rpartition("</body>")
        with replacing(page) as file:
            file.write(f"{head}{BEGIN}{diagnosis.as_html()}{END}{last}{tail}".encode(errors="backslashreplace"))
    except OSError as error:
        raise RunDirectoryError(f"cannot write the diagnosis into {page} ({error})") from error
    return page
