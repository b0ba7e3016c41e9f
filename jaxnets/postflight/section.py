"""The result of a diagnosis: sections of numbers and pictures, as plain data."""

import base64
import dataclasses
import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from jaxnets.core.errors import RunDirectoryError, did_you_mean
from jaxnets.core.files import replacing
from jaxnets.report.plots import number_text, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Measured:
    """One number of a section."""

    name: str
    """Its name, such as largest_eigenvalue."""
    value: float
    """The number; NaN if it has none."""
    meaning: str
    """What it says, in a sentence."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of a section."""

    title: str
    """What it shows."""
    caption: str
    """How to read it."""
    png: bytes
    """The picture as a PNG file."""

    @classmethod
    def of(cls, title: str, caption: str, figure: "Figure") -> "Picture":
        """A figure of matplotlib as a picture."""
        return cls(title, caption, to_png(figure))


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a diagnosis."""

    name: str
    """Its name, such as curvature."""
    numbers: tuple[Measured, ...] = ()
    """What was measured."""
    pictures: tuple[Picture, ...] = ()
    """What was drawn."""
    left_out: tuple[str, ...] = ()
    """What was not measured, with the reason, a sentence each."""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A diagnosis of a trained run. `print` shows its numbers, a notebook also its pictures."""

    title: str
    """The name of the run."""
    step: int
    """The step of the weights that were looked at."""
    sections: tuple[Section, ...]
    """In the order curvature, robustness, explanation."""

    def __getitem__(self, name: str) -> float:
        """A number by its name: `diagnosis["largest_eigenvalue"]`; raises `KeyError` with the nearest names."""
        if name not in self.numbers:
            raise KeyError(f"there is no {name!r}. {did_you_mean(name, self.numbers)}")
        return self.numbers[name]

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers by their names."""
        return {one.name: one.value for section in self.sections for one in section.numbers}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: section, name, number, meaning."""
        rows = [
            [section.name, one.name, number_text(one.value), one.meaning]
            for section in self.sections
            for one in section.numbers
        ]
        return ["section", "number", "value", "meaning"], rows

    def notes(self) -> list[str]:
        """What was left out, with the reasons."""
        return [f"{section.name}: {reason}" for section in self.sections for reason in section.left_out]

    def as_json(self) -> str:
        """The numbers and notes as one JSON object; null for what has no number."""
        numbers = {name: value if math.isfinite(value) else None for name, value in self.numbers.items()}
        return json.dumps({"run": self.title, "step": self.step, "numbers": numbers, "left_out": self.notes()})

    def __str__(self) -> str:
        width = max((len(name) for name in self.numbers), default=0)
        lines = [f"{self.title}, step {self.step}"]
        for section in self.sections:
            lines.append(section.name)
            lines += [f"  {one.name:<{width}}  {number_text(one.value):<9}  {one.meaning}" for one in section.numbers]
            lines += [f"  left out: {reason}" for reason in section.left_out]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.as_html()

    def as_html(self) -> str:
        """The numbers and pictures as the body of a page."""
        return "".join(_section(section) for section in self.sections)

    def write_pictures(self, folder: Path) -> list[Path]:
        """Write each picture as `SECTION-NUMBER.png`; returns the paths.

        Raises:
            RunDirectoryError: the folder cannot be written.
        """
        paths = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for section in self.sections:
                for number, picture in enumerate(section.pictures, 1):
                    paths.append(folder / f"{section.name}-{number}.png")
                    with replacing(paths[-1]) as file:
                        file.write(picture.png)
        except OSError as error:
            raise RunDirectoryError(f"cannot write the pictures of the diagnosis to {folder} ({error})") from error
        return paths


def _section(section: Section) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(one.name.replace('_', ' '))}</th><td>{html.escape(number_text(one.value))}</td>"
        f"<td>{html.escape(one.meaning)}</td></tr>"
        for one in section.numbers
    )
    pictures = "".join(_picture(one, section.name) for one in section.pictures)
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in section.left_out)
    left_out = f"<p>Left out:</p><ul>{reasons}</ul>" if reasons else ""
    return (
        f"<section><h2>Diagnosis: {html.escape(section.name)}</h2><div class='scroll'><table>{rows}</table></div>"
        f"<div class='panels'>{pictures}</div>{left_out}</section>"
    )


def _picture(picture: Picture, section: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    title = html.escape(picture.title)
    # A dark page inverts charts; in an explanation colours have a meaning, and inputs look as they are.
    kind = "picture" if section == "explanation" else "chart"
    return (
        f"<figure><h3>{title}</h3><img class='{kind}' alt='{title}' src='{source}'>"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )
