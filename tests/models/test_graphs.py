"""Graph networks against dense-matrix references, under renumbering and padding; graphs as data; what is refused."""

import collections
import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_close

import jaxnets
from jaxnets.config.experiment import Experiment
from jaxnets.config.serialize import from_data, to_data
from jaxnets.core.download import locate
from jaxnets.core.errors import DataError
from jaxnets.core.types import Mean
from jaxnets.data import InMemory, KarateClub, Rings, from_graph, from_graphs, pad_graphs
from jaxnets.data.sources.planetoid import Record, assemble_cora, decode
from jaxnets.models import GAT, GCN, GIN, MLP, Graph, GraphSAGE
from jaxnets.optim import SGD, Adam, AdamW
from jaxnets.runs.build import assemble
from jaxnets.tasks import Classification, GraphClassification, NodeClassification
from jaxnets.training.loop import fit

MODELS = {
    "gcn": GCN(widths=(5, 6), outputs=3),
    "sage": GraphSAGE(widths=(5,), outputs=3),
    "gat": GAT(widths=(5, 3), heads=3, output_heads=2, outputs=3),
    "gin": GIN(widths=(5, 4), outputs=3),
    "gin_nodes": GIN(widths=(5,), outputs=3, pool="none", norm="none"),
    "gcn_mean": GCN(widths=(5,), outputs=3, pool="mean"),
    "gat_max": GAT(widths=(5,), heads=2, outputs=3, pool="max"),
}
# Sizes nobody tuned; the last graph has a node without neighbours.
SIZES = ((7, 9), (11, 17), (3, 2), (4, 2))


def random_graphs(features=4, seed=0):
    rng = np.random.default_rng(seed)
    graphs = []
    for n, e in SIZES:
        pairs = np.array([(i, j) for i in range(n) for j in range(i)])
        edges = pairs[rng.permutation(len(pairs))[:e]]
        graphs.append((rng.normal(size=(n, features)).astype(np.float32), edges))
    return graphs


def batch(graphs, **sizes):
    a = pad_graphs(graphs)
    N, E = (sizes.get(k, a[name].shape[1]) for k, name in (("N", "inputs"), ("E", "edges")))
    pad = {
        k: np.pad(v, [(0, 0), (0, (E if k.startswith("edge") else N) - v.shape[1])] + [(0, 0)] * (v.ndim - 2))
        for k, v in a.items()
    }
    return Graph(pad["inputs"], pad["edges"], pad["node_mask"], pad["edge_mask"])


@pytest.fixture(params=MODELS, scope="module")
def case(request):
    model = MODELS[request.param]
    graph = batch(random_graphs())
    return model, graph, jax.jit(model.init)(jax.random.key(0), graph)


# References: one graph, its adjacency as a dense matrix A[to, from], no message in sight.


def dense_layer(model, p, x, A, is_output):
    n = len(x)
    if isinstance(model, GCN):
        A = A + jnp.eye(n)
        half = jnp.diag(A.sum(1) ** -0.5)
        return half @ A @ half @ x @ p["dense"]["kernel"] + p["bias"][None]
    if isinstance(model, GraphSAGE):
        mean = A / jnp.maximum(A.sum(1, keepdims=True), 1)
        return x @ p["own"]["kernel"] + p["own"]["bias"][None] + mean @ x @ p["others"]["kernel"]
    if isinstance(model, GIN):
        x = (1 + p["epsilon"]) * x + A @ x
        x = x @ p["dense_0"]["kernel"]
        x = (
            x / jnp.sqrt(1 + 1e-5) * p["norm"]["scale"][None] + p["norm"]["bias"][None]
            if "norm" in p
            else x + p["dense_0"]["bias"][None]
        )
        return jnp.maximum(x, 0) @ p["dense_1"]["kernel"] + p["dense_1"]["bias"][None]
    heads = []
    H, K = p["attention_source"].shape
    for h in range(H):
        z = x @ p["dense"]["kernel"][:, h * K : (h + 1) * K]
        e = (z @ p["attention_target"][h])[:, None] + (z @ p["attention_source"][h])[None, :]
        e = jnp.exp(jnp.where(e > 0, e, 0.2 * e)) * (A + jnp.eye(n))
        heads.append(e / e.sum(1, keepdims=True) @ z)
    return (sum(heads) / H if is_output else jnp.concatenate(heads, 1)) + p["bias"][None]


def dense_network(model, params, x, A):
    for i in range(len(model.widths)):
        x = dense_layer(model, params[f"layer_{i}"], x, A, False)
        x = jnp.where(x > 0, x, jnp.exp(x) - 1) if isinstance(model, GAT) else jnp.maximum(x, 0)
    if model.pool == "none":
        return dense_layer(model, params["output"], x, A, True)
    pooled = {"sum": x.sum(0), "mean": x.mean(0), "max": x.max(0)}[model.pool]
    return pooled @ params["output"]["kernel"] + params["output"]["bias"]


def test_equals_a_dense_matrix_reference_forward_and_gradient(case):
    model, graph, variables = case
    others = {k: v for k, v in variables.items() if k != "params"}
    # Parameters with no zeros, so that no term of the reference is idle.
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), variables["params"])
    dense = []
    for nodes, edges in random_graphs():
        A = np.zeros((len(nodes), len(nodes)), np.float32)
        A[edges[:, 0], edges[:, 1]] = A[edges[:, 1], edges[:, 0]] = 1
        dense.append((nodes, A))

    def reference(params):
        return [dense_network(model, params, x, A) for x, A in dense]

    def ours(params):
        out = model.apply({"params": params, **others}, graph)
        return [o[:n] if o.ndim == 2 else o for o, (n, _) in zip(out, SIZES, strict=True)]

    def weighed(f, params):
        outs = f(params)
        return sum((jnp.sin(1.0 + jnp.arange(o.size)).reshape(o.shape) * o).sum() for o in outs), outs

    (slopes, expected), (our_slopes, got) = (
        jax.jit(jax.grad(functools.partial(weighed, f), has_aux=True))(params) for f in (reference, ours)
    )
    scale = max(float(jnp.abs(e).max()) for e in expected)
    for e, g in zip(expected, got, strict=True):
        np.testing.assert_allclose(g, e, atol=1e-5 * max(scale, 1))
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(slopes))
    assert_close(our_slopes, slopes, atol=1e-5 * max(largest, 1))


def test_shapes_dtypes_and_a_gradient_for_every_parameter(case):
    model, graph, variables = case
    y = jax.jit(model.apply)(variables, graph)
    assert y.shape == ((4, 11, 3) if model.pool == "none" else (4, 3))
    assert y.dtype == jnp.float32
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables["params"])
    y_low = jax.jit(model.apply)({**variables, "params": low}, graph._replace(nodes=graph.nodes.astype(jnp.bfloat16)))
    assert y_low.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_low.astype(jnp.float32), y, atol=0.1 * float(jnp.abs(y).max()) + 0.05)
    others = {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        y, _ = model.apply({"params": params, **others}, graph, train=True, rngs=rngs, mutable=list(others))
        return (y * jnp.sin(1.0 + jnp.arange(y.size)).reshape(y.shape)).sum()

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"]))
    assert not [jax.tree_util.keystr(path) for path, g in gradients if not np.abs(g).max() > 0]


def test_renumbering_the_nodes_renumbers_the_outputs_and_padding_changes_nothing(case):
    model, graph, variables = case
    graphs = random_graphs()
    rng = np.random.default_rng(5)
    orders = [rng.permutation(len(nodes)) for nodes, _ in graphs]
    moved = []
    for (nodes, edges), order in zip(graphs, orders, strict=True):
        shuffled = rng.permutation(np.argsort(order)[edges], axis=0)
        moved.append((nodes[order], shuffled[:, ::-1]))
    y = jax.jit(model.apply)(variables, graph)
    other = batch(moved, N=15, E=50)
    # What padding holds is nobody's business.
    junk = np.where(other.node_mask[..., None], other.nodes, 1e6).astype(np.float32)
    z = jax.jit(model.apply)(variables, other._replace(nodes=junk))
    if model.pool != "none":
        np.testing.assert_allclose(z, y, atol=1e-5)
        return
    for i, order in enumerate(orders):
        np.testing.assert_allclose(z[i, : len(order)], y[i, order], atol=1e-5)


def test_batch_statistics_leave_padding_out():
    model, (small, large) = MODELS["gin"], (batch(random_graphs()), batch(random_graphs(), N=20, E=40))
    variables = jax.jit(model.init)(jax.random.key(0), small)
    apply = jax.jit(lambda g: model.apply(variables, g, train=True, mutable=["batch_stats"])[1])
    after = [apply(g) for g in (small, large)]
    assert_close(after[0], after[1], atol=1e-6)
    assert np.abs(np.asarray(after[0]["batch_stats"]["layer_0"]["norm"]["mean"])).max() > 0


@pytest.mark.parametrize("model", [GCN(outputs=7), GAT(outputs=7), GraphSAGE(outputs=7)])
def test_parameter_counts_on_cora(model):
    spec = jax.ShapeDtypeStruct
    graph = Graph(spec((1, 40, 1433), "float32"), spec((1, 9, 2), "int32"), spec((1, 40), bool), spec((1, 9), bool))
    params = jax.eval_shape(lambda g: model.init(jax.random.key(0), g), graph)["params"]
    # Kipf and Welling's has 23,063 with biases, Velickovic et al.'s 92,373.
    assert (
        sum(p.size for p in jax.tree.leaves(params))
        == {"GCN": 23_063, "GAT": 92_373, "GraphSAGE": 46_103}[type(model).__name__]
    )


def test_message_passing_cannot_distinguish_a_hexagon_from_two_triangles_but_can_a_chord():
    hexagon = [(i, (i + 1) % 6) for i in range(6)]
    triangles = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    chords = [[*hexagon, (0, step)] for step in (2, 3)]
    model = GIN(outputs=2)
    ones = np.ones((6, 1), np.float32)
    graph = batch([(ones, np.array(edges)) for edges in (hexagon, triangles, *chords)])
    variables = jax.jit(model.init)(jax.random.key(0), graph)
    rng = np.random.default_rng(0)  # fresh biases are 0, and the network linear in a constant
    params = jax.tree.map(lambda p: p + rng.normal(size=p.shape).astype(np.float32), variables["params"])
    a, b, c, d = np.asarray(jax.jit(model.apply)({**variables, "params": params}, graph))
    np.testing.assert_allclose(a, b, rtol=1e-6)  # Xu et al. 2019: no better than the Weisfeiler-Lehman test
    assert np.abs(c - d).max() > 1e-4 * np.abs(c).max()


def test_only_counted_nodes_have_a_loss_and_the_penalty_is_of_all_matrices():
    data = KarateClub().open()
    task = NodeClassification(model=GCN(), l2=0.1).bind(data.card)
    given = {**data.train, "mask": np.ones(1, np.float32)}
    variables = jax.jit(task.init)(jax.random.key(0), given)
    loss, _ = task.loss(variables, given, jax.random.key(1), True)
    plain, _ = dataclasses.replace(task, l2=0.0).loss(variables, given, jax.random.key(1), True)
    squares = sum(float((p**2).sum()) for p in jax.tree.leaves(variables["params"]) if p.ndim > 1)
    assert float(loss.weight) == 2.0
    np.testing.assert_allclose(float(loss.value - plain.value), 0.05 * squares, rtol=1e-5)
    test = task.metrics(variables, {**data.test, "mask": np.ones(1, np.float32)})
    logits = np.asarray(task.outputs(variables, given))[0, 1:33]
    hits = (logits.argmax(-1) == data.test["targets"][0, 1:33]).sum()
    assert (float(test["accuracy"].sum), float(test["accuracy"].weight)) == (float(hits), 32.0)
    assert isinstance(test["loss"], Mean)
    empty = task.metrics(variables, {**data.test, "mask": np.zeros(1, np.float32)})
    assert float(empty["loss"].weight) == 0.0


def test_the_karate_club_splits_as_it_did(one_device):
    data = KarateClub().open()
    experiment = Experiment(
        task=NodeClassification(model=GCN(widths=(8,), dropout=0.0)),
        data=KarateClub(),
        optimizer=Adam(learning_rate=2e-2),
        steps=60,
        batch_size=1,
    )
    assert to_data(from_data(to_data(experiment))) == to_data(experiment)
    parts = assemble(experiment, data, mesh=one_device)
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=60)
        scores = parts.evaluator.metrics(state.variables)
        outputs = parts.predictor(state.variables, {k: v for k, v in data.test.items() if k != "targets"})
    assert scores["examples"] == 32
    assert scores["accuracy"] > 0.9
    shown = parts.task.exhibits(outputs, data.test, data.card)
    assert shown[0].counts.sum() == 32


def test_inputs_without_edges_are_refused():
    with pytest.raises(
        DataError, match=r"graphs, graph 0: give a pair, \(features \[n, F\], edges \[e, 2\]\), got ndarray"
    ):
        from_graphs([np.ones((3, 2))] * 5, np.arange(5))
    with pytest.raises(DataError, match="graph 0: edges cannot become an array"):
        from_graphs([(np.ones((3, 2)), [[0, 1], [2]])] * 5, np.arange(5))


@pytest.mark.slow
def test_whole_graphs_are_spread_over_devices_and_predicted(one_device):
    data = Rings(graphs=50).open()
    # Adam, or a norm over nodes that are all alike, would magnify the rounding of a gradient that is nearly 0.
    task = GraphClassification(model=GIN(widths=(8,), norm="none"))
    run = jaxnets.fit(task, data, steps=2, batch_size=16, optimizer=SGD(0.01), progress="none")
    parts = assemble(run.experiment, data, mesh=one_device)
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=2)
    assert_close(jax.device_get(run.state.params), jax.device_get(state.params), atol=1e-5)
    given = {k: v[:7] for k, v in data.test.items()}
    assert run.predict(given).shape == (7,)
    with pytest.raises(DataError, match="no edges, node_mask, edge_mask"):
        run.predict(data.test["inputs"])
    with pytest.raises(DataError, match=r"takes edge_mask of shape \[N, 29\]"):
        run.predict({**given, "edges": given["edges"][:, :-1]})
    with pytest.raises(DataError, match="needs the array 'inputs'"):
        run.predict({"x": X})


@pytest.mark.slow
def test_a_gin_classifies_rings_by_their_chords(one_device):
    task = GraphClassification(model=GIN(widths=(16, 16, 16)))
    experiment = Experiment(task=task, data=Rings(), optimizer=AdamW(1e-2), steps=150, batch_size=40)
    parts = assemble(experiment, mesh=one_device)
    with jax.set_mesh(one_device):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=150)
        assert parts.evaluator.metrics(state.variables)["accuracy"] > 0.95


def test_rings_of_both_classes_have_the_same_degrees():
    data = Rings(graphs=40).open()
    for split in (data.train, data.test):
        for edges, real, nodes in zip(split["edges"], split["edge_mask"], split["node_mask"], strict=True):
            counts = np.bincount(edges[real][:, 0], minlength=int(nodes.sum()))
            assert sorted(counts) == [2] * (int(nodes.sum()) - 2) + [3, 3]


X = np.ones((4, 2), np.float32)
GOOD = np.array([[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (X, [[0, 1], [2, 4]], "graph 0: 1 edges end at nodes.*edge 1, joins 2 and 4.*0 to 3. Remove"),
        (X, [[0, -1]], "joins 0 and -1"),
        (X, [[0, 1], [2, 2]], "node to itself.*edge 1 at node 2; remove"),
        (X, [[0, 1], [1, 0]], "more than once.*edge 1.*undirected=False"),
        (X, [[0, 1, 2], [1, 2, 3]], "edges.T"),
        (X, [[0.0, 1.0]], "integers"),
        (X[0], GOOD, r"shape \(2,\); give features"),
        (X[:0], GOOD, "at least one node"),
        (X * np.nan, GOOD, "NaN"),
        (X.astype(str), GOOD, "real numbers"),
    ],
)
def test_bad_graphs_are_refused_with_a_remedy(nodes, edges, message):
    with pytest.raises(DataError, match=message):
        pad_graphs([(nodes, np.array(edges))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": [0, 1], "test": [1, 2]}, "1 nodes are in train and in test, the first is node 1"),
        ({"train": [0], "test": [4]}, "test names node 4.*0 to 3"),
        ({"train": [], "test": [3]}, "at least one node"),
        ({"train": [True, False], "test": [3]}, "np.flatnonzero"),
        ({"train": [0], "test": [3], "labels": [0.0, 0.5, 0.25, 1.0]}, "real numbers"),
        ({"train": [0], "test": [3], "labels": [0, 1]}, "give one for each"),
    ],
)
def test_bad_node_labels_are_refused_with_a_remedy(options, message):
    with pytest.raises(DataError, match=message):
        from_graph(X, GOOD, **{"labels": [0, 1, 0, 1], **options})


def test_graphs_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match="graph 1 has 3 features for each node, graph 0 has 2"):
        from_graphs([(X, GOOD), (np.ones((4, 3)), GOOD)], [0, 1])
    with pytest.raises(DataError, match="no graphs"):
        pad_graphs([])
    with pytest.raises(DataError, match="least=5"):
        Rings(least=5)


def test_a_task_refuses_what_is_not_its_own_before_compiling(one_device, blobs):
    graphs, club = Rings(graphs=20).open(), KarateClub().open()
    for task, data, message in (
        (NodeClassification(model=GCN()), blobs, "needs graphs, but the data have no edges.*from_graphs"),
        (NodeClassification(model=GCN()), graphs, "'counted'.*GraphClassification"),
        (NodeClassification(model=GIN()), club, "set the model's pool to none"),
        (GraphClassification(model=GCN()), graphs, "set the model's pool to sum"),
        (GraphClassification(model=GIN()), club, "one label for each example"),
        (Classification(model=MLP()), club, "one label for each example"),
        (Classification(model=GCN()), graphs, "takes a Graph"),
    ):
        experiment = Experiment(task=task, data=InMemory("x"), batch_size=1, steps=1)
        with pytest.raises(DataError, match=message):
            assemble(experiment, data, mesh=one_device)
    for make, message in (
        (lambda: GAT(heads=0), "heads=0"),
        (lambda: GCN(widths=(0,)), "at least 1"),
        (lambda: NodeClassification(model=GCN(), l2=-1.0), "l2 is at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_is_read_and_never_run(tmp_path):
    graph = collections.defaultdict(list, {0: [1, 300], 1: [0]})
    assert decode(pickle.dumps(graph, protocol=2)).items == {0: [1, 300], 1: [0]}
    target = tmp_path / "made"
    for content in (Hostile(target), Hostile(1)):
        try:
            value = decode(pickle.dumps(content, protocol=2))
        except DataError as error:
            assert "no published file" in str(error)
        else:
            assert isinstance(value, Record)
    assert not target.exists()
    for damaged in (b"", b"\x80\x02]", b"\x80\x02R.", b"\x80\x02h\x07.", b"nonsense"):
        with pytest.raises(DataError, match="damaged"):
            decode(damaged)


def test_planetoid_files_give_the_original_arrays():
    """The eight files as Planetoid has them, where a copy is at hand."""
    folder = locate("graphs/planetoid/ind.cora.x")
    at_hand = locate("graphs/cora.npz")
    if folder is None or at_hand is None:
        pytest.skip("no copy of Planetoid's files")
    names = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
    made = assemble_cora([(folder.parent / f"ind.cora.{name}").read_bytes() for name in names])
    with np.load(at_hand) as expected:
        for key in expected.files:
            np.testing.assert_array_equal(made[key], expected[key])


def test_cora_is_the_standard_split():
    if locate("graphs/cora.npz") is None:
        pytest.skip("no copy of Cora")
    data = jaxnets.load("cora")
    assert data.train["inputs"].shape == (1, 2708, 1433)
    assert data.train["edge_mask"].sum() == 2 * 5278
    labels = data.train["targets"][data.train["counted"]]
    assert np.bincount(labels).tolist() == [20] * 7
    assert data.test["counted"].sum() == 1000
    rows = data.train["inputs"][0].sum(1)
    np.testing.assert_allclose(rows[rows > 0], 1, rtol=1e-5)
    assert (ROOT / "configs" / "cora_gcn.py").exists()
