"""Processes that read rows: the bits of threads, errors that name the row, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import assert_same_bits

import jaxnets
from jaxnets.core.errors import DataError, UsageError
from jaxnets.data import from_source, large
from jaxnets.models import MLP

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3


class Numbers:
    """A source at the top of a module, as processes need it."""

    def __init__(self, bad=-1):
        self.bad = bad

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        if row == self.bad:
            raise OSError("the disk is gone")
        return X[row], Y[row]


class Process(Numbers):
    """Gives the number of the process that read the row."""

    def __getitem__(self, row):
        time.sleep(0.01)
        return np.array([row, os.getpid()]), Y[row]


class Ends(Numbers):
    """Ends the process that reads row 7, unless it reads the sample."""

    def __getitem__(self, row):
        if row == 7:
            os._exit(3)
        return super().__getitem__(row)


def noisy(rng, example):
    return {**example, "inputs": example["inputs"] + rng.normal(size=4).astype(np.float32)}


def test_rows_are_read_in_other_processes_in_order():
    data = from_source(Process(), test=Numbers(), processes=2, input_kind="tokens")
    rows = np.random.default_rng(1).permutation(60)
    found = large.gather(data.train, rows)["inputs"]
    np.testing.assert_array_equal(found[:, 0], rows)
    assert os.getpid() not in found[:, 1]
    assert len(set(found[:, 1])) == 2


@pytest.mark.slow
def test_a_run_has_the_bits_of_threads_also_with_random_changes():
    def trained(**how):
        data = from_source(Numbers(), transform=noisy, **how)
        return jaxnets.fit(MLP(widths=(8,)), data, steps=8, batch_size=16, progress="none")

    assert_same_bits(trained(processes=2).variables, trained().variables)


def test_failures_are_named():
    with pytest.raises(UsageError, match="or 0 for threads; got -1"):
        from_source(Numbers(), processes=-1)

    class Here(Numbers):
        pass

    with pytest.raises(DataError, match="cannot be pickled"):
        from_source(Here(), processes=1)
    with pytest.raises(DataError, match="transform: .* at the top of a module"):
        from_source(Numbers(), transform=lambda rng, example: example, processes=1)


@pytest.mark.slow
def test_failures_in_a_process_are_named():
    with pytest.raises(DataError, match=r"row 7 cannot be read \(OSError: the disk is gone\)"):
        from_source(Numbers(bad=7), processes=2)
    with pytest.raises(DataError, match="ended before its work was done"):
        from_source(Ends(), processes=2)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "source.py").write_text(
        "import os, time\nimport numpy as np\nfrom jaxnets.data import from_source, large\n\n\nclass Slow:\n"
        "    def __len__(self):\n        return 40\n\n    def __getitem__(self, row):\n"
        "        return np.array([row, os.getpid()]), row % 2\n\n\nif __name__ == '__main__':\n"
        "    data = from_source(Slow(), processes=2, input_kind='tokens')\n"
        "    print(*set(large.gather(data.train, np.arange(30))['inputs'][:, 1]), flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "source.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as main:
        readers = [int(word) for word in main.stdout.readline().split()]
        assert readers
        main.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while any(alive(reader) for reader in readers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(alive(reader) for reader in readers)


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
