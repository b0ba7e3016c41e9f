"""Attention in the report: the weights that the model uses, and the names of what looks at what."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

from jaxnets import data, models, tasks
from jaxnets.config.experiment import Experiment
from jaxnets.core.types import AttentionMap
from jaxnets.ops import dot_product_attention
from jaxnets.ops.attention import attention_weights
from jaxnets.parallel import MeshShape
from jaxnets.report import plots
from jaxnets.runs import exhibits
from jaxnets.runs.attention import attention_of
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train

SMALL = {"layers": 1, "width": 16, "heads": 2}


def looked(task, source, make=attention_of, **options):
    """The exhibits of a model that was not trained."""
    parts = assemble(Experiment(task=task, data=source, steps=2, batch_size=8, **options))
    with jax.set_mesh(parts.mesh):
        return make(SimpleNamespace(parts=parts, variables=parts.fresh_state().variables))


@pytest.mark.parametrize("heads_of_keys", [1, 4])
def test_the_weights_are_those_that_mix_the_values(heads_of_keys):
    draw = np.random.default_rng(0).normal
    q, k, v = (draw(size=(2, n, h, 8)).astype(np.float32) for n, h in ((5, 4), (7, heads_of_keys), (7, heads_of_keys)))
    bias, mask = draw(size=(1, 4, 5, 7)).astype(np.float32), np.tri(5, 7, 2, dtype=bool)[None, None]
    with attention_weights() as seen:
        outputs = dot_product_attention(q, k, v, bias=bias, mask=mask)
    values = np.repeat(v, 4 // heads_of_keys, axis=2)
    np.testing.assert_allclose(np.einsum("bhts,bshk->bthk", seen[0], values), outputs, rtol=1e-5, atol=1e-6)
    assert not np.asarray(seen[0])[np.broadcast_to(~mask, seen[0].shape)].any()


def test_without_the_context_the_program_is_the_same():
    like = jax.ShapeDtypeStruct((1, 3, 2, 4), jnp.float32)

    def trace():
        return str(jax.make_jaxpr(lambda q, k, v: dot_product_attention(q, k, v))(like, like, like))

    before = trace()
    assert before == str(jax.make_jaxpr(lambda q, k, v: jax.nn.dot_product_attention(q, k, v))(like, like, like))

    def watched(q, k, v):
        with attention_weights():
            return dot_product_attention(q, k, v)

    assert str(jax.make_jaxpr(watched)(like, like, like)) != before
    assert trace() == before


@pytest.fixture
def of_text(tmp_path):
    """The task and the data of a language model."""
    (tmp_path / "a.txt").write_text("To be, or not to be. " * 60)
    model = models.LanguageModel(**SMALL, length=12)
    return tasks.NextToken(model=model), data.Text(path=str(tmp_path / "a.txt"), length=12)


def test_a_language_model_attends_to_earlier_tokens_only(of_text):
    made = next(one for one in looked(*of_text, exhibits.of_task) if isinstance(one, AttentionMap))
    assert made.weights.shape == (2, 12, 12)
    np.testing.assert_allclose(made.weights.sum(axis=-1), 1, rtol=1e-5)
    assert not made.weights[:, ~np.tri(12, dtype=bool)].any()
    dataset = of_text[1].open()
    text = "".join(dataset.card.class_names[i] for i in dataset.test["inputs"][0])
    assert "".join(name.strip("'") for name in made.rows) == text


MESHES = {
    "ring": (MeshShape(data=2, sequence=4), {}),
    "ring, flash": (MeshShape(data=1, fsdp=2, sequence=2), {"attention": "flash"}),
    "heads": (MeshShape(data=1, sequence=2, tensor=2), {"split_attention": "heads", "heads": 4}),
    "tensor, flash": (MeshShape(data=2, tensor=2), {"attention": "flash"}),
    "replicas": (MeshShape(replica=2, data=2), {"attention": "flash"}),
    "experts": (MeshShape(data=1, expert=2, sequence=2), {"experts": models.Experts(count=2, routing="capacity")}),
}


@pytest.mark.parametrize("case", [pytest.param(n, marks=() if n == "ring" else pytest.mark.slow) for n in MESHES])
def test_on_any_mesh_the_weights_are_those_of_one_device(of_text, case):
    mesh, fields = MESHES[case]
    task = tasks.NextToken(model=models.LanguageModel(**SMALL | {"length": 12} | fields))
    plain = tasks.NextToken(model=task.model.clone(attention="plain"))
    (found,), (wanted,) = looked(task, of_text[1], mesh=mesh), looked(plain, of_text[1], mesh=MeshShape(data=1))
    assert found.rows == wanted.rows
    np.testing.assert_allclose(found.weights, wanted.weights, atol=1e-6)


@pytest.mark.slow
def test_the_stages_of_a_pipeline_have_no_picture(of_text):
    model = models.LanguageModel(**SMALL | {"layers": 2}, length=12, blocks="scanned")
    assert looked(tasks.NextToken(model=model), of_text[1], mesh=MeshShape(data=2, pipeline=2)) == []


def test_a_model_whose_attention_is_not_seen_has_no_picture(of_text, monkeypatch):
    monkeypatch.setattr("jaxnets.ops.attend.dot_product_attention", jax.nn.dot_product_attention)
    assert looked(*of_text) == []


@pytest.mark.slow
def test_the_report_has_the_attention_plot(experiment, of_text, tmp_path):
    base = replace(experiment, task=of_text[0], data=of_text[1], steps=1)
    train(base, run_dir=tmp_path / "run", progress="none")
    assert "Attention of the last layer (one test example)" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "plots" / "attention_of_the_last_layer.png").exists()


@pytest.mark.slow
def test_a_decoder_looks_at_the_source_and_a_vision_transformer_at_patches():
    words = tasks.SequenceToSequence(model=models.Seq2SeqTransformer(**SMALL, length=16))
    (made,) = looked(words, data.ReversedWords())
    assert made.rows[0] == "<begin>"
    assert made.rows[:0:-1] == made.columns
    assert made.weights.shape == (2, len(made.rows), len(made.columns))
    np.testing.assert_allclose(made.weights.sum(axis=-1), 1, rtol=1e-5)
    (made,) = looked(tasks.Classification(model=models.ViT(patch=4, **SMALL)), data.Digits())
    assert made.rows == made.columns == ("class", "0,0", "0,1", "1,0", "1,1")
    scanned = models.LanguageModel(**SMALL, length=70, blocks="scanned")
    assert looked(tasks.NextToken(model=scanned), data.CopyProblem()) == []
    assert looked(tasks.Classification(model=models.CNN()), data.Digits()) == []


def test_the_picture_has_a_panel_for_each_head_and_names_that_can_be_read():
    names = tuple(f"{i},{j}" for i in range(8) for j in range(8))
    figure = plots.attention(AttentionMap("a", np.full((3, 64, 64), 1 / 64), names, names))
    panels = [axis for axis in figure.axes if axis.get_visible() and axis.get_title(loc="left")]
    assert [axis.get_title(loc="left") for axis in panels] == ["head 1", "head 2", "head 3"]
    assert [label.get_text() for label in panels[0].get_xticklabels()] == list(names[::4])
