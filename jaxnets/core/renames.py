"""Names that changed: what an older version wrote is read under the names of this one."""

from collections.abc import Mapping
from typing import Any

# Keys of what a checkpoint's manifest keeps for the host.
HOST = {"owed": "pending"}
# Fields of the classes in a saved configuration: class -> old name -> new name.
FIELDS: dict[str, dict[str, str]] = {}


def renamed(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`data` with old keys replaced by new ones; a key that has its new name already is kept."""
    return {names.get(key, key): value for key, value in data.items()}
