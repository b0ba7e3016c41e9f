"""The arrays of a checkpoint without the model that made them, on the host."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnets.checkpoints.manifest import Leaf
from jaxnets.checkpoints.plain_name import PlainName
from jaxnets.core.errors import CheckpointError, RunDirectoryError, first_line
from jaxnets.core.files import physical_memory
from jaxnets.parallel.partition import path_name


def read_leaves(
    folder: Path, leaves: Mapping[str, Leaf], *, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Arrays by path, as numpy; of all leaves or of those named.

    Sizes are compared with the manifest, and with the available memory, before anything is allocated.

    Raises:
        CheckpointError: the files hold other leaves than the manifest says, or more than fits into memory.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    needed = sum(leaf.nbytes for leaf in leaves.values())
    memory = physical_memory()
    if memory and needed > memory:
        raise CheckpointError(
            f"{folder} declares {needed / 1e9:.1f} GB of arrays; this machine has {memory / 1e9:.1f} GB"
        )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            plain = PlainName(folder.absolute())
            metadata = reader.metadata(plain.path / "state")
            tree = getattr(metadata, "item_metadata", metadata)
            tree = getattr(tree, "tree", tree)
            found = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
            _check(folder, leaves, found)
            on_the_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            restored = reader.restore(plain.path / "state", args=ocp.args.PyTreeRestore(restore_args=on_the_host))
    except (CheckpointError, RunDirectoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}: {first_line(error)})") from error
    arrays = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}
    return {path: np.asarray(array) for path, array in arrays.items() if only is None or path in only}


def _check(folder: Path, leaves: Mapping[str, Leaf], found: Mapping[str, Any]) -> None:
    for path in leaves.keys() | found.keys():
        there, said = found.get(path), leaves.get(path)
        if there is None or said is None:
            raise CheckpointError(f"{folder}: {path} is {'missing' if there is None else 'not in the manifest'}")
        if tuple(there.shape) != said.shape or str(np.dtype(there.dtype)) != said.dtype:
            raise CheckpointError(
                f"{folder}: {path} is {there.dtype}{list(there.shape)} in the files, {said.dtype}{list(said.shape)} in the "
                f"manifest"
            )
