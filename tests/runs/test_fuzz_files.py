"""Mutated files of every kind that is read: each is read, or refused by one bounded message, in bounded time.

A mutation of bytes flips, cuts, repeats or inserts; one of JSON replaces a value by one of another type, drops a key or repeats an
item, which byte mutations rarely reach because the file no longer parses. A manifest's own digest is made to fit again.
"""

import gzip
import io
import json
import random
import shutil
import signal
import struct
import zipfile

import numpy as np
import pytest
from conftest import ROOT

from jaxnets.checkpoints import manifest as manifests
from jaxnets.core.download import read_array, read_arrays
from jaxnets.core.errors import LONGEST_MESSAGE, JaxnetsError
from jaxnets.data import Tabular, Text, TokenFile, open_tokenizer
from jaxnets.data.given import read_given
from jaxnets.data.sources.images import read_idx
from jaxnets.interop import read_safetensors, write_safetensors
from jaxnets.report.history import History
from jaxnets.report.log import read_records
from jaxnets.runs.directory import RunDirectory
from jaxnets.runs.open import open_run

FIXTURES = ROOT / "tests" / "fixtures" / "before_rooms"
EACH = 120
SECONDS = 20
STRANGE = (
    None,
    True,
    -1,
    0,
    2**63,
    2**200,
    1e308,
    float("nan"),
    "",
    "x" * 50,
    "/etc/passwd",
    "../..",
    [],
    [[]],
    {},
    {"type": "Experiment"},
)


def mutated_bytes(content, rng):
    """The bytes with one to four changes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(content)))
        kind = rng.randrange(6)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content[at:at] = content[at : at + rng.randint(1, 64)]
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4:
            content[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
        else:
            del content[at : at + rng.randint(1, 32)]
    return bytes(content)


def mutated_data(data, rng):
    """The JSON data with one value changed somewhere."""
    if isinstance(data, dict) and data and rng.random() < 0.85:
        key = rng.choice(list(data))
        kind = rng.random()
        if kind < 0.1:
            return {name: value for name, value in data.items() if name != key}
        if kind < 0.15:
            return {**data, rng.choice(("extra", "type", "")): rng.choice(STRANGE)}
        return {**data, key: mutated_data(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.85:
        at = rng.randrange(len(data))
        if rng.random() < 0.15:
            return [*data[:at], data[at], *data[at:]]
        return [*data[:at], mutated_data(data[at], rng), *data[at + 1 :]]
    return rng.choice(STRANGE)


def is_json(content):
    try:
        return isinstance(json.loads(content), dict | list)
    except ValueError:
        return False


def mutate(content, rng):
    """By bytes, or by its data where it is JSON."""
    if is_json(content) and rng.random() < 0.7:
        data = mutated_data(json.loads(content), rng)
        if isinstance(data, dict) and "self" in data and "leaves" in data:
            data.pop("self")
            data["self"] = manifests._own_digest(data)
        return json.dumps(data).encode()
    if content.startswith(b"PK") and rng.random() < 0.8:
        return mutated_member(content, rng)
    return mutated_bytes(content, rng)


def mutated_member(content, rng):
    """An archive with one member changed and its checksum right: else the checksum would catch every change."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        which = rng.choice(old.namelist())
        for member in old.namelist():
            inside = old.read(member)
            new.writestr(member, mutated_bytes(inside, rng) if member == which else inside)
    return packed.getvalue()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """name -> (bytes of a good file, a function that reads a file of this kind)."""
    here = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)).astype(np.float32), np.arange(30) % 3
    np.savez(here / "a.npz", inputs=x, targets=y, target_names=np.array(["a", "b", "c"]))
    np.save(here / "a.npy", x)
    (here / "a.csv").write_text(
        "one,two,kind\n" + "".join(f"{a:.3f},{b:.3f},{'uvw'[k]}\n" for (a, b, _), k in zip(x, y, strict=True))
    )
    idx = bytes([0, 0, 8, 3]) + struct.pack(">III", 4, 3, 3) + bytes(range(36))
    write_safetensors(here / "a.safetensors", {"w": x, "b": y.astype(np.int32)})
    (here / "a.txt").write_text("the cat sat on the mat and saw one red bird\n" * 20)
    (np.arange(4000) % 200).astype(np.uint16).tofile(here / "a.bin")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 2,
                "content": "[UNK]",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"the": 0, "cat": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
    }
    run, log = here / "run", FIXTURES / "images" / "metrics.jsonl"
    shutil.copytree(FIXTURES / "images", run)

    def of_run(name, read):
        def inside(path):
            copy = path.parent / "run"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for file in run.iterdir():
                if file.is_file():
                    shutil.copy(file, copy)
            shutil.copy(path, copy / name)
            read(copy)

        return inside

    def manifest(path):
        (path.parent / "folder").mkdir(exist_ok=True)
        shutil.copy(path, path.parent / "folder" / "manifest.json")
        found = manifests.read(path.parent / "folder")
        manifests.verify_files(path.parent / "folder", found)

    def history(path):
        found = History(tuple(read_records(path)))
        repr(found)
        found.series("loss")
        found.metrics()

    return {
        "x.npz": ((here / "a.npz").read_bytes(), lambda p: (read_arrays(p), Tabular(str(p)).open())),
        "x.npy": ((here / "a.npy").read_bytes(), read_array),
        "x.csv": ((here / "a.csv").read_bytes(), lambda p: Tabular(str(p), target="kind").open()),
        "x.idx": (gzip.compress(idx), lambda p: read_idx(p.read_bytes())),
        "x.safetensors": ((here / "a.safetensors").read_bytes(), read_safetensors),
        "x.txt": ((here / "a.txt").read_bytes(), lambda p: Text(str(p), length=8).open()),
        "train.bin": (
            (here / "a.bin").read_bytes(),
            lambda p: TokenFile(str(p.parent), length=8, tokens="bytes").open(),
        ),
        "tokenizer.json": (json.dumps(tokenizer).encode(), lambda p: open_tokenizer(str(p)).encode("the cat")),
        "metrics.jsonl": (log.read_bytes(), history),
        "manifest.json": ((run / "checkpoints" / "8" / "manifest.json").read_bytes(), manifest),
        "config.json": ((run / "config.json").read_bytes(), of_run("config.json", RunDirectory.existing)),
        "preparation.json": (
            (FIXTURES / "text" / "preparation.json").read_bytes(),
            of_run("preparation.json", lambda p: RunDirectory(p).preparation),
        ),
        "environment.json": (
            (run / "environment.json").read_bytes(),
            of_run("environment.json", lambda p: RunDirectory(p).read_object("environment.json")),
        ),
        "quarantine.json": (
            b'[{"step": 3, "reason": "loss", "batches": [2, 3]}]',
            of_run("quarantine.json", lambda p: RunDirectory(p).quarantine),
        ),
    }


NAMES = (
    "x.npz", "x.npy", "x.csv", "x.idx", "x.safetensors", "x.txt", "train.bin", "tokenizer.json", "metrics.jsonl", "manifest.json",
    "config.json", "preparation.json", "environment.json", "quarantine.json",
)  # fmt: skip


def attempt(read, path):
    """What goes wrong when a file is read, in words; "" where it is read, or refused as it should be."""

    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        read(path)
    except JaxnetsError as error:
        return "" if len(str(error)) <= LONGEST_MESSAGE + 100 else f"a message of {len(str(error))} characters"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_read_or_refused(name, samples, tmp_path):
    content, read = samples[name]
    path = tmp_path / name
    path.write_bytes(content)
    if name == "train.bin":
        shutil.copy(path, tmp_path / "val.bin")
    if name != "manifest.json":  # whose files are not there
        read(path)
    wrong = []
    for seed in range(EACH):
        path.write_bytes(mutate(content, random.Random(f"{name} {seed}")))
        if found := attempt(read, path):
            wrong.append(f"seed {seed}: {found}")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_of_new_examples_is_predicted_or_refused(samples, tmp_path):
    run = open_run(FIXTURES / "images")
    preparation, wrong = run.parts.dataset.preparation, []
    images = np.zeros((2, 8, 8, 1), np.float32)
    for name, save in (("new.npy", np.save), ("new.npz", lambda p, a: np.savez(p, inputs=a))):
        path = tmp_path / name
        save(path, images)
        content = path.read_bytes()
        for seed in range(EACH):
            path.write_bytes(mutate(content, random.Random(f"{name} {seed}")))
            if found := attempt(lambda path: read_given(path, preparation), path):
                wrong.append(f"{name}, seed {seed}: {found}")
    assert not wrong, "\n".join(wrong[:20])
