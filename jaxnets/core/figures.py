"""Figures of matplotlib that a notebook shows without pyplot."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@functools.cache
def shown_in_notebooks(to_png: Callable[[Any], bytes]) -> type["Figure"]:
    """A class of figures that are shown as a picture at the end of a cell; a plain `Figure` is text until pyplot is imported.

    Args:
        to_png: a figure to the bytes of a PNG file.
    """
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return to_png(self)

    return Picture
