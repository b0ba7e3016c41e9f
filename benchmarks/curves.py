"""Double descent over the width of a small network: the table and the picture of docs/evidence.md.

`python -m benchmarks.curves` prints the curve; with `--write-docs` it also writes the picture and the table into docs/.
"""

import argparse
import re
import time
from datetime import date
from pathlib import Path

from jaxnets.config.experiment import Experiment
from jaxnets.data import Teacher
from jaxnets.evidence import Curve, curve
from jaxnets.models import MLP
from jaxnets.optim import AdamW
from jaxnets.report.plots import INK, to_png
from jaxnets.tasks import Regression

DOCS = Path(__file__).parents[1] / "docs"
PICTURE = DOCS / "images" / "double_descent.png"
# Eight inputs and one output: h units have 10 h + 1 parameters, so 8 units have as many as there are examples.
WIDTHS = (1, 2, 3, 4, 6, 8, 11, 16, 24, 48, 128, 512)
EXAMPLES = 80


def double_descent(
    widths: tuple[int, ...] = WIDTHS, *, seeds: int = 8, steps: int = 2000, directory: Path | None = None
) -> Curve:
    """The curve of a student on few noisy examples of a teacher, each run with examples of its own, without weight decay."""
    experiment = Experiment(
        task=Regression(model=MLP(widths=(1,), activation="tanh")),
        data=Teacher(train=4000, test=1000, seed=1, noise=0.2),
        optimizer=AdamW(1e-2, weight_decay=0.0),
        steps=steps,
        batch_size=EXAMPLES,
        log_every=steps,
    )
    values = {"task.model.widths": [(width,) for width in widths]}
    return curve(experiment, over=values, examples=EXAMPLES, seeds=seeds, directory=directory)


def write_docs(found: Curve, seconds: float, page: Path = DOCS / "evidence.md", picture: Path = PICTURE) -> None:
    """The picture, and the table between the marks on the page."""
    figure = found.picture()
    for axis in figure.axes:
        axis.axvline(EXAMPLES, color=INK, lw=0.9, ls=":")
    picture.write_bytes(to_png(figure))
    header, rows = found.table()
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    took = f"{seconds / 60:.1f} minutes of two CPU cores, shared with other programs"
    when = f"Made by `python -m benchmarks.curves --write-docs` in {took}, {date.today()}."
    text, begin, end = page.read_text(), "<!-- double descent -->", "<!-- end -->"
    new = "\n".join([begin, *lines, "", when, end])
    page.write_text(re.sub(f"{begin}.*?{end}", lambda _: new, text, count=1, flags=re.DOTALL))


def main() -> None:
    """Train, print, and write the documentation where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-docs", action="store_true", help="write docs/images/double_descent.png and the table")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--directory", type=Path, help="keep the results there, and go on with them")
    given = parser.parse_args()
    began = time.perf_counter()
    found = double_descent(seeds=given.seeds, steps=given.steps, directory=given.directory)
    print(found)
    if given.write_docs:
        write_docs(found, time.perf_counter() - began)


if __name__ == "__main__":
    main()
