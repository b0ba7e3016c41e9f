"""After a run: its curvature, its robustness, and what its outputs depend on, as one diagnosis.

`of_run.py` makes it, from the sections of `curvature.py`, `robustness.py` and `explanation.py`; what these look at is in
`examined.py`, and `section.py` says what they give.
"""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.postflight.of_run import SECTIONS as SECTIONS
    from jaxnets.postflight.of_run import diagnosis as diagnosis
    from jaxnets.postflight.of_run import into_report as into_report
    from jaxnets.postflight.section import Diagnosis as Diagnosis
    from jaxnets.postflight.section import Measured as Measured
    from jaxnets.postflight.section import Picture as Picture
    from jaxnets.postflight.section import Section as Section

FILES = {
    "SECTIONS": "of_run",
    "Diagnosis": "section",
    "Measured": "section",
    "Picture": "section",
    "Section": "section",
    "diagnosis": "of_run",
    "into_report": "of_run",
}

__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = ["SECTIONS", "Diagnosis", "Measured", "Picture", "Section", "diagnosis", "into_report"]
