"""The source of a run whose data were given as arrays."""

import dataclasses

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source


@dataclasses.dataclass(frozen=True)
class InMemory(Source):
    """Arrays that the caller holds; a configuration can name them but not bring them back."""

    name: str = "arrays"
    """What the caller called them."""
    fingerprint: str = ""
    """Digest of their bytes."""

    def open(self) -> Dataset:
        """Always an error: only the program that made the arrays has them."""
        raise DataError(
            f"this run was trained on arrays held in memory ({self.name!r}, fingerprint {self.fingerprint}); "
            f"pass the same arrays to fit() again"
        )
