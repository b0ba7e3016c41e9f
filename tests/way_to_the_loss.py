"""The way from the command to the loss, measured: `python tests/way_to_the_loss.py`.

A run of `jaxnets train digits_cnn` is stopped where the training step calls the task's loss, and the call stack is read: these
are the files through which the command reaches the loss. Files beside the way, which prepare what is handed along it, are
those of which the same run has called a function by then.
"""

import json
import sys
import tempfile
import traceback
from pathlib import Path

import jaxnets

PACKAGE = Path(jaxnets.__file__).resolve().parent
# Rooms whose files are leaves: what is computed, read or shown, one file for each kind. The rest is the core.
LEAVES = ("models", "ops", "tasks", "data/sources", "data/tabular", "data/text", "report", "interop", "optim", "core")


def lines(name):
    """Lines of a file of the package."""
    return len((PACKAGE / name).read_text().splitlines())


def measure():
    """`{"stack": files in the order entered, "core": other files of the core whose functions were called}`."""
    from jaxnets.cli import main
    from jaxnets.tasks.classification import Classification

    stack, called = [], set()
    loss = Classification.loss

    def watched(self, *arguments, **options):
        files = [Path(frame.filename) for frame in traceback.extract_stack()]
        if any(file.name == "loop.py" for file in files):  # in earnest, not for shapes alone
            own = [file.relative_to(PACKAGE).as_posix() for file in files if PACKAGE in file.parents]
            stack.extend(name for name in dict.fromkeys([*own, "tasks/classification.py"]) if name not in stack)
        return loss(self, *arguments, **options)

    def called_now(frame, event, _):
        if event == "call" and not stack and frame.f_code.co_name != "<module>":
            file = Path(frame.f_code.co_filename)
            if PACKAGE in file.parents:
                called.add(file.relative_to(PACKAGE).as_posix())

    Classification.loss = watched
    sys.setprofile(called_now)
    try:
        with tempfile.TemporaryDirectory() as run:
            main.run(["train", "digits_cnn", "--steps", "1", "--run-dir", run, "--overwrite", "--progress", "none"])
    finally:
        sys.setprofile(None)
        Classification.loss = loss
    core = sorted(name for name in called if not name.startswith(LEAVES) and name not in stack)
    return {"stack": ["__main__.py", *stack], "core": core}


if __name__ == "__main__":
    found = measure()
    if "--json" in sys.argv:
        print(json.dumps(found))
    else:
        for title, names in (("the way", found["stack"]), ("beside it", found["core"])):
            print(f"{title}: {len(names)} files, {sum(map(lines, names)):,} lines")
            for name in names:
                print(f"  {lines(name):4}  {name}")
        both = [*found["stack"], *found["core"]]
        print(f"together: {len(both)} files, {sum(map(lines, both)):,} lines")
