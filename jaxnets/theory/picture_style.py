"""How the pictures of this room look: no background, grey text and colours that are readable on white and on black."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnets.core.figures import shown_in_notebooks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue, orange, green, purple: distinct for colour-blind readers, with enough contrast on white and on black.
COLOURS = ("#3b82f6", "#e0702c", "#12a07a", "#b36ad6")
INK = "#7d8590"

STYLE: Any = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "text.color": INK,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "grid.color": INK, "grid.alpha": 0.25,
    "legend.frameon": False, "legend.labelcolor": INK, "font.size": 9, "axes.titlesize": 10, "lines.linewidth": 1.6,
}  # fmt: skip


class Panels:
    """A figure with panels in a row (or rows) in this style; a context in which they are drawn.

    It does not touch pyplot or its settings outside of the context. A notebook shows `figure`.
    """

    def __init__(
        self, columns: int = 1, rows: int = 1, *, size: tuple[float, float] = (3.6, 3.0), **options: Any
    ) -> None:
        import matplotlib

        self._context = matplotlib.rc_context()
        self._context.__enter__()
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        self.figure = shown_in_notebooks(_png)(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        self.axes: Sequence[Any] = self.figure.subplots(rows, columns, squeeze=False, **options).ravel()

    def __enter__(self) -> "Panels":
        return self

    def __exit__(self, *problem: Any) -> None:
        self._context.__exit__(*problem)


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    save(figure, buffer)
    return buffer.getvalue()


def save(figure: "Figure", path: str | Path | io.BytesIO, *, dpi: int = 110) -> None:
    """Write a figure as a PNG file without a background."""
    figure.savefig(path, format="png", dpi=dpi, transparent=True)
