"""Settings of local SGD: copies of the model train separately and are averaged at intervals (`steps/local.py`)."""

import dataclasses
from typing import Literal

from jaxnets.core.errors import UsageError
from jaxnets.core.typecheck import check_choices


@dataclasses.dataclass(frozen=True)
class LocalSGD:
    """Replicas of the model that train separately for some steps, and are then averaged."""

    replicas: int = 1
    """Number of copies of the model; 1: off. Each trains on batch_size / replicas examples a step."""
    every: int = 50
    """Steps between two exchanges (H)."""
    outer_rate: float = 0.7
    """Learning rate of the outer optimizer, SGD."""
    outer_momentum: float = 0.9
    """Nesterov momentum of the outer optimizer, in [0, 1)."""
    exchange: Literal["float32", "int8"] = "float32"
    """Number format in which the replicas' changes are sent."""

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("replicas", "every"):
            if getattr(self, name) < 1:
                raise UsageError(f"local.{name} is at least 1, got {getattr(self, name)}")
        if not self.outer_rate > 0:
            raise UsageError(f"local.outer_rate is positive, got {self.outer_rate}")
        if not 0 <= self.outer_momentum < 1:
            raise UsageError(f"local.outer_momentum is in [0, 1), got {self.outer_momentum}")

    @property
    def active(self) -> bool:
        """Whether there are several replicas."""
        return self.replicas > 1

    def check(self, *, batch_size: int, micro_batches: int, steps: int | None) -> None:
        """Raise `UsageError` unless the replicas divide every batch, and the last step ends with an exchange.

        `steps` is None where they are not counted yet.
        """
        if not self.active:
            return
        if batch_size % (self.replicas * micro_batches):
            raise UsageError(
                f"batch_size {batch_size} is not divisible into {self.replicas} replicas with {micro_batches} micro-batches "
                f"each; make it a multiple of {self.replicas * micro_batches}, or change local.replicas"
            )
        if steps is not None and steps % self.every:
            raise UsageError(
                f"steps {steps} is not a multiple of local.every {self.every}, so the last {steps % self.every} steps would "
                f"be lost; make it {steps - steps % self.every + self.every}, or change local.every"
            )
