"""The files of a sweep's results. Parts of one sweep on several machines each write their own file in one directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxnets.core.errors import UsageError
from jaxnets.core.files import only_process, replacing
from jaxnets.evidence.sweep_result import Outcome, read, written
from jaxnets.evidence.trials import Trial

# Part n of N: (n, N), from (1, N) to (N, N).
Part = tuple[int, int]
WHOLE: Part = (1, 1)


def check_part(part: Part) -> None:
    """Raise `UsageError` for what is no part of a sweep."""
    number, parts = part
    if not 1 <= number <= parts:
        raise UsageError(f"part is (n, N) with n from 1 to N, got ({number}, {parts})")


def part_file(file: str, part: Part) -> str:
    """The name of the file of a part: `results.jsonl` becomes `results-3-of-16.jsonl`."""
    if part == WHOLE:
        return file
    stem, _, ending = file.rpartition(".")
    return f"{stem}-{part[0]}-of-{part[1]}.{ending}"


def known_results(folder: Path, file: str, wanted: Mapping[str, Trial], *, stopped: bool) -> dict[str, Outcome]:
    """The results in a directory of the trials that are wanted, the newest of each; other results there stay as they are.

    Args:
        folder: the directory.
        file: the name of the file of a whole sweep; the files of its parts are read too.
        wanted: the trials by their names.
        stopped: whether runs that were stopped early count (in successive halving they do).

    Raises:
        DataError: a line is not a result.
    """
    stem, _, ending = file.rpartition(".")
    files = [*folder.glob(f"{stem}-*-of-*.{ending}"), *folder.glob(file)]
    files.sort(key=lambda path: path.stat().st_mtime)
    found = [one for path in files for one in read(path) if one.digest in wanted]
    newest = {one.digest: one for one in found}
    return {
        name: one
        for name, one in newest.items()
        if stopped or one.failed or one.steps >= wanted[name].experiment.total_steps
    }


def keep_results(path: Path | None, some: Sequence[Outcome]) -> None:
    """Add results to a file, which is always complete, also if several processes of this machine add to it; None: do not."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_process(path):
        before = read(path)
        with replacing(path, durable=True) as file:
            file.write("".join(f"{written(one)}\n" for one in [*before, *some]).encode())
