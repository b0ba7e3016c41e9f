"""The source of a run that was trained on arrays in memory."""

import dataclasses

from jaxnets.core.errors import DataError
from jaxnets.data.dataset import Dataset, Source


@dataclasses.dataclass(frozen=True)
class InMemory(Source):
    """Names arrays in the caller's memory; a configuration cannot reopen them."""

    name: str = "arrays"
    """The name that the caller gave."""
    fingerprint: str = ""
    """Digest of the data set."""

    def open(self) -> Dataset:
        """Always raises `DataError`: only the calling program has the arrays."""
        raise DataError(
            f"this run was trained on arrays held in memory ({self.name!r}, fingerprint {self.fingerprint}); "
            f"pass the same arrays to fit() again"
        )
