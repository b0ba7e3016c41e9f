"""A name for a directory without characters that are special in glob patterns.

Orbax finds its files by a glob pattern that begins with the whole path. Under a folder called `[old] runs` it finds nothing
and silently writes a checkpoint that cannot be restored; under one called `run*` it also finds the files of other runs.
"""

import glob
import os
import tempfile
from pathlib import Path

from jaxnets.core.errors import RunDirectoryError


class PlainName:
    """The directory under its own name, or, if that contains `[`, `*` or `?`, by a link to it in a temporary folder."""

    def __init__(self, directory: Path) -> None:
        """Find the name.

        Args:
            directory: an absolute path; need not be there yet.

        Raises:
            RunDirectoryError: it needs a link, and there can be none.
        """
        self.path = directory
        if not _has_meaning(directory):
            return
        try:
            # Removed when this object goes.
            self._folder = tempfile.TemporaryDirectory(prefix="jaxnets-", ignore_cleanup_errors=True)
            self.path = Path(self._folder.name).absolute() / "checkpoints"
            os.symlink(directory, self.path, target_is_directory=True)
        except OSError as error:
            raise _refused(directory, str(error)) from error
        if _has_meaning(self.path):
            raise _refused(directory, f"the temporary folder {self.path.parent} has such a name, too")


def _has_meaning(path: Path) -> bool:
    return glob.escape(str(path)) != str(path)


def _refused(directory: Path, why: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"{directory} has one of [ * ? in its name, which stand for other characters in the patterns that checkpoints are "
        f"found by, and no link to it can be made ({why}); choose a --run-dir without them"
    )
