"""Callbacks: what a user's code may do while a run trains."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.callbacks.callback import Callback as Callback
    from jaxnets.callbacks.callback import Progress as Progress
    from jaxnets.callbacks.profile import Profile as Profile
    from jaxnets.callbacks.shipped import Call as Call
    from jaxnets.callbacks.shipped import DeviceMemory as DeviceMemory
    from jaxnets.callbacks.shipped import Samples as Samples
    from jaxnets.callbacks.shipped import TimeLimit as TimeLimit
    from jaxnets.callbacks.shipped import WritePredictions as WritePredictions

# The file of each name; see `jaxnets.core.lazy`.
FILES = {
    "Callback": "callback",
    "Progress": "callback",
    "Profile": "profile",
    "Call": "shipped",
    "DeviceMemory": "shipped",
    "Samples": "shipped",
    "TimeLimit": "shipped",
    "WritePredictions": "shipped",
}
__all__ = [
    "Call",
    "Callback",
    "DeviceMemory",
    "Profile",
    "Progress",
    "Samples",
    "TimeLimit",
    "WritePredictions",
]

__getattr__, __dir__ = lazy(__name__, FILES)
