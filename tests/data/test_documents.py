"""Documents in token files: windows of one document, and several packed into a window without attention across."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_here

import jaxnets
from jaxnets.core.errors import DataError
from jaxnets.core.types import Mean
from jaxnets.data import TokenFile, large
from jaxnets.data.windows import DocumentWindows
from jaxnets.models import RNN, LanguageModel, generate
from jaxnets.models.generation import Sampling
from jaxnets.ops.tokens import IGNORED
from jaxnets.runs.open import open_run
from jaxnets.tasks import NextToken

END = 0
SIZES = {"layers": 2, "heads": 2, "width": 16, "length": 32, "vocab_size": 20}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer of twenty words; word 0 ends a document."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<|endoftext|>": 0, **{f"w{i}": i for i in range(1, 20)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w1"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<|endoftext|>"])
    folder = tmp_path_factory.mktemp("words")
    made.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture
def files(tmp_path):
    """Documents of one to twelve tokens, as nanoGPT writes them."""
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(1, 20, rng.integers(0, 12)), END] for _ in range(60)]
    for name, part in (("train", documents[:50]), ("val", documents[50:])):
        np.array(list(itertools.chain(*part)), np.uint16).tofile(tmp_path / f"{name}.bin")
    return tmp_path, documents


@hypothesis.given(
    st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8),
    st.integers(1, 7), st.integers(1, 9), st.booleans(),
)  # fmt: skip
@hypothesis.settings(deadline=None, max_examples=150)
def test_each_token_but_the_first_of_a_document_is_a_target(documents, length, stride, ends):
    ids = np.array([token for words in documents for token in (*words, END)][: None if ends else -1], np.uint16)
    hypothesis.assume(len(ids))  # an empty file is refused before
    reader = DocumentWindows(ids, "", "it", length, min(stride, length), 10, np.dtype(np.uint8), END)
    if not len(reader):
        assert all(not words for words in documents[:-1])
        assert len(documents[-1]) <= (0 if ends else 1)
        return
    made = reader.read(np.arange(len(reader)))
    assert made["inputs"].dtype == np.uint8
    wanted, start = [], 0
    for words in documents:
        whole = ids[start : start + len(words) + 1].tolist()
        wanted += list(itertools.pairwise(whole))
        start += len(words) + 1
    real = made["targets"] != IGNORED
    found = list(zip(made["inputs"][real].tolist(), made["targets"][real].tolist(), strict=True))
    if stride >= length:
        assert found == wanted  # once, in order
    else:
        assert set(found) == set(wanted)
    assert (made["inputs"][:, 1:][~real[:, :-1]] == END).all()
    assert real[:, 0].all()


def test_windows_of_a_mapped_file_are_those_in_memory(files, tokenizer, monkeypatch):
    folder, documents = files
    source = TokenFile(str(folder), tokens=tokenizer, length=5, stride=5, documents="apart")
    plain = source.open()
    monkeypatch.setattr(large, "LARGE_BYTES", 1)
    monkeypatch.setattr("jaxnets.data.windows.SEARCHED", 7)
    lazy = source.open()
    assert lazy.lazy
    for split in ("train", "test"):
        for name, array in getattr(plain, split).items():
            np.testing.assert_array_equal(np.asarray(getattr(lazy, split)[name]), array)
            assert getattr(lazy, split)[name].dtype == array.dtype
    assert lazy.preparation == plain.preparation
    assert (plain.train["targets"] != IGNORED).sum() == sum(len(words) - 1 for words in documents[:50])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("positions", "blocks"),
    [
        pytest.param("rotary", "unrolled", marks=SLOW),
        pytest.param("learned", "scanned", marks=SLOW),
        pytest.param("sinusoidal", "unrolled", marks=SLOW),
        pytest.param("alibi", "scanned", marks=SLOW),
        pytest.param("rotary", "scanned", marks=SLOW),
        pytest.param("learned", "unrolled", marks=SLOW),
    ],
)
def test_packed_documents_are_computed_as_each_alone(positions, blocks):
    model = LanguageModel(**SIZES, positions=positions, blocks=blocks, separator=END)
    documents = [[3, 4, 5, 6, END], [7, END], [END], [8, 9, 10]]
    packed = jnp.array([list(itertools.chain(*documents))])
    variables = model.init(jax.random.key(0), packed)
    together = model.apply(variables, packed)[0]
    alone = [model.apply(variables, jnp.array([words]))[0] for words in documents]
    # Sums over other numbers of keys are rounded otherwise; 2e-7 was seen.
    np.testing.assert_allclose(together, jnp.concatenate(alone), atol=2e-6)
    joined = model.clone(separator=None).apply(variables, packed)[0]
    assert abs(together - joined)[5:].max() > 1e-3
    np.testing.assert_allclose(together[:5], joined[:5], atol=2e-6)

    # With a cache, in pieces: what was read is remembered by document.
    cache, pieces = model.empty_cache(1, 11), []
    for piece in (packed[:, :3], packed[:, 3:8], packed[:, 8:]):
        logits, cache = model.apply(variables, piece, cache=cache)
        pieces.append(logits[0])
    np.testing.assert_allclose(jnp.concatenate(pieces), together, atol=2e-6)


@pytest.mark.slow
def test_a_text_is_continued_as_if_its_document_were_alone():
    model = LanguageModel(**SIZES, positions="rotary", separator=END)
    variables = model.init(jax.random.key(1), jnp.ones((1, 4), jnp.int32))
    # Sums over other numbers of keys are rounded otherwise.
    after, alone = (model.apply(variables, jnp.array([words]))[0, -1] for words in ([5, 6, 7, END, 8, 9], [8, 9]))
    np.testing.assert_allclose(after, alone, atol=2e-6)
    greedy = {"key": jax.random.key(0), "sampling": Sampling(temperature=0)}
    after = generate(model, variables, jnp.array([[5, 6, 7, END, 8, 9]]), 6, **greedy)
    np.testing.assert_array_equal(after, generate(model, variables, jnp.array([[8, 9]]), 6, **greedy))


@pytest.mark.slow
def test_the_first_token_of_a_document_does_not_count():
    task = NextToken(model=LanguageModel(**SIZES, separator=END))
    windows = {"inputs": jnp.array([[3, 4, END, 5, 6]]), "targets": jnp.array([[4, END, 5, 6, 7]])}
    apart = {
        "inputs": jnp.array([[3, 4, END, END, END], [5, 6, END, END, END]]),
        "targets": jnp.array([[4, END, IGNORED, IGNORED, IGNORED], [6, 7, IGNORED, IGNORED, IGNORED]]),
    }
    for batch in (windows, apart):
        batch["mask"] = jnp.ones(len(batch["inputs"]))
    variables = task.init(jax.random.key(0), windows)

    def loss_of(params, batch):
        loss: Mean = task.loss({"params": params}, batch, jax.random.key(0), True)[0]
        return loss.sum / loss.weight, loss.weight

    packed, gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"], windows)
    alone, wanted = jax.value_and_grad(loss_of, has_aux=True)(variables["params"], apart)
    assert packed[1] == alone[1] == 4
    np.testing.assert_allclose(packed[0], alone[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, wanted)


@pytest.mark.slow
def test_a_run_takes_the_separator_from_the_data_and_keeps_it(files, tokenizer, tmp_path):
    model = LanguageModel(layers=1, heads=2, width=16, length=16, positions="rotary")
    experiment = jaxnets.Experiment(
        task=NextToken(model=model),
        data=TokenFile(str(files[0]), tokens=tokenizer, length=16, documents="packed"),
        steps=4, batch_size=4, validation=0.0,
    )  # fmt: skip
    run = jaxnets.train(experiment, run_dir=tmp_path / "run", progress="none")
    again = open_run(tmp_path / "run")
    assert run.parts.task.model.separator == again.parts.task.model.separator == END
    joined = TokenFile(str(files[0]), tokens=tokenizer, length=16).open()
    assert joined.fingerprint != run.parts.dataset.fingerprint


def test_impossible_settings_are_refused(files, tokenizer):
    with pytest.raises(DataError, match="its tokenizer has none; name one"):
        TokenFile(str(files[0]), tokens="bytes", length=8, documents="packed").open()
    data = TokenFile(str(files[0]), tokens=tokenizer, length=8, documents="packed").open()
    with pytest.raises(DataError, match="RNN would read across their ends"):
        NextToken(model=RNN(cell="lstm", answer="every")).bind(data.card)
    with pytest.raises(DataError, match=r"separator is 3, and documents of .* end with token 0"):
        NextToken(model=LanguageModel(separator=3)).bind(data.card)
    np.zeros(50, np.uint16).tofile(files[0] / "train.bin")
    with pytest.raises(DataError, match="no document of two tokens"):
        TokenFile(str(files[0]), tokens=tokenizer, length=8, documents="apart").open()


@pytest.mark.slow
@pytest.mark.parametrize("documents", ["packed", "apart"])
def test_by_the_command(files, tokenizer, tmp_path, documents):
    (tmp_path / "own.py").write_text(
        "from jaxnets.config import Experiment\nfrom jaxnets.data import TokenFile\nfrom jaxnets.models import LanguageModel\n"
        "from jaxnets.tasks import NextToken\n\n\ndef config():\n    return Experiment(\n"
        "        task=NextToken(model=LanguageModel(layers=1, heads=2, width=16, length=16, positions='rotary')),\n"
        f"        data=TokenFile({str(files[0])!r}, tokens={tokenizer!r}, length=16), steps=6, batch_size=4)\n"
    )
    done = run_here("train", "own.py", "--data.documents", documents, "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = run_here("generate", "run", "--prompt", "w3 w4", "--tokens", "5", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
