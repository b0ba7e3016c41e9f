"""Recurrent and recurrent convolutional networks, radial basis functions and single neurons, each against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import replace

from jaxnets import config
from jaxnets.core.errors import DataError
from jaxnets.core.types import Card
from jaxnets.data import AddingProblem, LogicGate, MovingDigits, TwoSpirals, from_arrays
from jaxnets.models import MLP, RBF, RCNN, RNN, ConvLSTMForecaster, Perceptron, Sampling, generate, recurrent
from jaxnets.models.rcnn import response_norm
from jaxnets.models.recurrent import Recurrent
from jaxnets.optim import SGD, Constant
from jaxnets.runs.build import assemble
from jaxnets.runs.train import train
from jaxnets.tasks import Adaline, NextFrame, PerceptronRule
from jaxnets.training.loop import fit

CASES = {
    "simple": (RNN(cell="simple", widths=(7,), answer="every", outputs=3), (5, 6, 4), (5, 6, 3)),
    "lstm": (RNN(cell="lstm", widths=(7, 5), outputs=3, dropout=0.1), (5, 6, 4), (5, 3)),
    "both_ways": (RNN(cell="gru", widths=(4,), bidirectional=True, outputs=3), (5, 6, 4), (5, 3)),
    "rbf": (RBF(centres=6, outputs=3), (5, 4), (5, 3)),
    "rcnn": (RCNN(features=8, stages=1, steps=2, dropout=0.1, outputs=3), (5, 6, 5, 2), (5, 3)),
    "rcnn_batch": (RCNN(features=4, stages=1, steps=1, norm="batch", outputs=3), (5, 6, 5, 2), (5, 3)),
    "conv_lstm": (ConvLSTMForecaster(features=(5, 3), patch=2, ahead=2), (2, 3, 6, 4, 1), (2, 2, 6, 4, 1)),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    model, shape, wanted = CASES[request.param]
    x = jax.random.normal(jax.random.key(1), shape)
    return model, x, jax.jit(model.init)({"params": jax.random.key(0), "dropout": jax.random.key(0)}, x), wanted


def test_shapes_dtypes_and_precision(case):
    model, x, variables, wanted = case
    y = jax.jit(model.apply)(variables, x)
    assert y.shape == wanted
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables["params"])
    y_low = jax.jit(model.apply)({**variables, "params": low}, x.astype(jnp.bfloat16))
    assert y_low.dtype == jnp.bfloat16
    np.testing.assert_allclose(y_low.astype(jnp.float32), y, atol=0.1 * float(jnp.abs(y).max()) + 0.05)


def test_a_gradient_reaches_every_parameter(case):
    model, x, variables, wanted = case
    others = {k: v for k, v in variables.items() if k != "params"}
    weights = jax.random.normal(jax.random.key(3), wanted)

    def loss(params):
        y, _ = model.apply(
            {"params": params, **others}, x, train=True, rngs={"dropout": jax.random.key(2)}, mutable=list(others)
        )
        return (y * weights).sum()

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"]))
    silent = [jax.tree_util.keystr(path) for path, g in gradients if not np.abs(g).max() > 0]
    assert not silent


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def walk(cell, p, x):
    """States `[B, T, F]` of one layer over `[B, T, N]`, straight from the papers, one gate at a time, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), p)
    U = p["recurrent"]
    F = U.shape[0]
    h, c, states = np.zeros((len(x), F)), np.zeros((len(x), F)), []
    for t in range(x.shape[1]):
        a = [
            x[:, t] @ p["input"]["kernel"][:, k : k + F] + p["input"]["bias"][k : k + F]
            for k in range(0, U.shape[1], F)
        ]
        u = [h @ U[:, k : k + F] for k in range(0, U.shape[1], F)]
        if cell == "simple":
            h = np.tanh(a[0] + u[0])
        elif cell == "lstm":
            i, f, g, o = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1]), np.tanh(a[2] + u[2]), sigmoid(a[3] + u[3])
            c = f * c + i * g
            h = o * np.tanh(c)
        else:
            r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
            h = (1 - z) * np.tanh(a[2] + r * (u[2] + p["candidate_bias"])) + z * h
        states.append(h)
    return np.stack(states, axis=1)


def perturbed(params, key=7):
    """Parameters none of which is 0 or 1, as fresh biases are."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(key)
    return tree.unflatten([np.asarray(a) + 0.3 * rng.normal(size=a.shape).astype(np.float32) for a in leaves])


def readout(p, x):
    return x @ np.asarray(p["output"]["kernel"], np.float64) + np.asarray(p["output"]["bias"], np.float64)


@pytest.mark.parametrize("inside", [True, False], ids=["projected inside", "projected before"])
@pytest.mark.parametrize("cell", ["simple", "lstm", "gru"])
def test_cells_equal_a_numpy_reference_forward_and_gradient(cell, inside, monkeypatch):
    assert recurrent.projects_inside(3, 4)
    assert not recurrent.projects_inside(3, 13)
    monkeypatch.setattr(recurrent, "projects_inside", lambda batch, features: inside)
    model = RNN(cell=cell, widths=(5,), answer="every", outputs=2)
    x = np.random.default_rng(0).normal(size=(3, 11, 4)).astype(np.float32)
    params = perturbed(jax.jit(model.init)(jax.random.key(0), x)["params"])
    expected = readout(params, walk(cell, params["layer_0"], x))
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, x), expected, rtol=1e-5, atol=1e-5)
    weights = np.random.default_rng(1).normal(size=expected.shape)

    def reference_loss(p):
        return (readout(p, walk(cell, p["layer_0"], x)) * weights).sum()

    got = jax.jit(jax.grad(lambda p: (model.apply({"params": p}, x) * weights).sum()))(params)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    scale = max(float(np.abs(g).max()) for g in jax.tree.leaves(got))
    for path, gradient in jax.tree_util.tree_leaves_with_path(got):
        leaf = wide
        for key in path:
            leaf = leaf[key.key]
        # Every third number is enough to find a wrong formula; the difference is central, in float64.
        for index in list(np.ndindex(leaf.shape))[::3]:
            kept, slopes = leaf[index], []
            for move in (1e-6, -1e-6):
                leaf[index] = kept + move
                slopes.append(reference_loss(wide))
            leaf[index] = kept
            difference = (slopes[0] - slopes[1]) / 2e-6
            assert float(gradient[index]) == pytest.approx(difference, abs=1e-5 * scale, rel=1e-5), (path, index)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_long_memory_is_kept_in_bfloat16(cell):
    """A cell that gains a thousandth in each step: rounded to 16 bits, it would stand still."""
    layer = Recurrent(cell, 1)
    x = jnp.ones((1, 400, 1))
    p = jax.tree.map(jnp.zeros_like, dict(layer.init(jax.random.key(0), x)["params"]))
    bias = [-5.0, 9.0, 1.0, 5.0] if cell == "lstm" else [0.0, 6.5, 1.0]
    p["input"] = {**p["input"], "bias": jnp.array(bias)}
    exact, _ = layer.apply({"params": p}, x)
    low, final = layer.apply({"params": jax.tree.map(lambda a: a.astype(jnp.bfloat16), p)}, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    assert {a.dtype for a in final} == {jnp.dtype(jnp.float32)}
    # The weights' own rounding is within a hundredth.
    np.testing.assert_allclose(np.asarray(low, np.float32)[0, ::40], exact[0, ::40], rtol=0.02)


def test_stacked_layers_in_both_directions_equal_a_numpy_reference():
    x = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
    every = RNN(cell="gru", widths=(5, 3), bidirectional=True, answer="every", outputs=2)
    params = perturbed(jax.jit(every.init)(jax.random.key(0), x)["params"])
    y = x
    for layer in range(2):
        forth = walk("gru", params[f"layer_{layer}"], y)
        back = walk("gru", params[f"layer_{layer}_reverse"], y[:, ::-1])[:, ::-1]
        y = np.concatenate([forth, back], axis=-1)
    np.testing.assert_allclose(jax.jit(every.apply)({"params": params}, x), readout(params, y), rtol=1e-5, atol=1e-5)
    # The walk backward ends at the first step.
    ends = np.concatenate([forth[:, -1], back[:, 0]], axis=-1)
    last = every.clone(answer="last")
    np.testing.assert_allclose(jax.jit(last.apply)({"params": params}, x), readout(params, ends), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cell", "answer"), [("simple", "last"), ("lstm", "every"), ("gru", "last")])
def test_padding_changes_nothing(cell, answer):
    model = RNN(cell=cell, widths=(5, 4), bidirectional=True, answer=answer, outputs=2)
    x = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    x[1, 4:] = 1e6
    variables = {"params": perturbed(jax.jit(model.init)(jax.random.key(0), x)["params"])}
    apply = jax.jit(model.apply)
    got = apply(variables, x, lengths=np.array([9, 4]))
    for row, length in enumerate((9, 4)):
        alone = apply(variables, x[row : row + 1, :length])[0]
        part = got[row] if answer == "last" else got[row, :length]
        np.testing.assert_allclose(part, alone, rtol=1e-5, atol=1e-6)


def test_rbf_equals_a_numpy_reference_near_its_centres_too():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) + 100
    for basis in ("gaussian", "inverse_quadratic"):
        model = RBF(centres=4, basis=basis, width=0.7, outputs=2)
        params = perturbed(jax.jit(model.init)(jax.random.key(0), x)["params"])
        params["centres"] = jnp.asarray(x[:4] + 0.01)
        p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        xi = np.linalg.norm(x[:, None] - p["centres"], axis=-1) / np.exp(p["log_widths"])
        hidden = np.exp(-(xi**2)) if basis == "gaussian" else 1 / (1 + xi**2)
        np.testing.assert_allclose(
            jax.jit(model.apply)({"params": params}, x), readout(params, hidden), rtol=1e-5, atol=1e-5
        )


def correlate(x, kernel):
    """Convolution with zero padding that keeps the size, by its definition."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel)


def test_response_norm_and_a_recurrent_convolution_equal_a_numpy_reference():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 2)).astype(np.float32)
    model = RCNN(features=16, stages=1, steps=2, outputs=3)
    params = perturbed(jax.jit(model.init)(jax.random.key(0), x)["params"])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def activate(z):
        z, out = np.maximum(z, 0), np.zeros_like(z)
        for k in range(16):
            near = z[..., max(0, k - 1) : min(15, k + 1) + 1]
            out[..., k] = z[..., k] / (1 + 0.001 / 3 * (near**2).sum(-1)) ** 0.75
        return out

    z = np.random.default_rng(2).normal(size=(2, 2, 2, 16)).astype(np.float32) * 30
    np.testing.assert_allclose(response_norm(jnp.maximum(z, 0)), activate(z), rtol=1e-5, atol=1e-5)
    y = activate(correlate(x, p["stem"]["kernel"]) + p["stem"]["bias"])
    y = y.reshape(2, 2, 2, 3, 2, 16).max(axis=(2, 4))
    for layer in range(2):
        q = p[f"layer_{layer}"]
        fed = correlate(y, q["feed_forward"]["kernel"]) + q["feed_forward"]["bias"]
        y = activate(fed)
        for _ in range(2):
            y = activate(fed + correlate(y, q["recurrent"]["kernel"]))
    expected = readout(params, y.max(axis=(1, 2)))
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, x), expected, rtol=1e-5, atol=1e-4)


def test_conv_lstm_equals_a_numpy_reference():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 1)).astype(np.float32)
    model = ConvLSTMForecaster(features=(3, 2), patch=2, ahead=2)
    params = perturbed(jax.jit(model.init)(jax.random.key(0), x)["params"])
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

    def layer(q, fed, h, c):
        states = []
        for a in fed:
            i, f, g, o = np.split(a + correlate(h, q["recurrent"]), 4, axis=-1)
            i, f = sigmoid(i + q["peephole_input"] * c), sigmoid(f + q["peephole_forget"] * c)
            c = f * c + i * np.tanh(g)
            h = sigmoid(o + q["peephole_output"] * c) * np.tanh(c)
            states.append(h)
        return states, h, c

    def fed(q, frames):
        return [correlate(frame, q["input"]["kernel"]) + q["input"]["bias"] for frame in frames]

    # Pixel (2i + a, 2j + b) is channel 2a + b of place (i, j).
    frames = [
        np.concatenate([x[:, t, a::2, b::2] for a in range(2) for b in range(2)], axis=-1).astype(np.float64)
        for t in range(3)
    ]
    memories = []
    for index, features in enumerate((3, 2)):
        q = p[f"encoder_{index}"]
        frames, h, c = layer(q, fed(q, frames), *np.zeros((2, 2, 2, 3, features)))
        memories.append((h, c))
    q = p["forecaster_0"]
    low, *_ = layer(q, [q["bias"]] * 2, *memories[0])
    high, *_ = layer(p["forecaster_1"], fed(p["forecaster_1"], low), *memories[1])
    expected = np.zeros((2, 2, 4, 6, 1))
    for k in range(2):
        y = correlate(np.concatenate([low[k], high[k]], axis=-1), p["output"]["kernel"]) + p["output"]["bias"]
        for a in range(2):
            for b in range(2):
                expected[:, k, a::2, b::2, 0] = y[..., 2 * a + b]
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        # Input kernel, recurrent kernel and bias of each gate; GRU: the candidate's second bias; then the readout.
        (RNN(cell="simple", widths=(6,)), (1, 5, 4), 4 * 6 + 6 * 6 + 6 + 7),
        (RNN(cell="lstm", widths=(6,)), (1, 5, 4), 4 * (4 * 6 + 6 * 6 + 6) + 7),
        (RNN(cell="gru", widths=(6,)), (1, 5, 4), 3 * (4 * 6 + 6 * 6 + 6) + 6 + 7),
        (RBF(centres=9), (1, 4), 9 * 4 + 9 + 10),
        # 5*5*3*F + F, then 4 layers of 2*9*F*F + F, then 10*(F + 1): the 0.67M, 1.19M and 1.86M of Liang and Hu 2015.
        (RCNN(features=96, outputs=10), (1, 32, 32, 3), 672_202),
        (RCNN(features=128, outputs=10), (1, 32, 32, 3), 1_191_178),
        (RCNN(features=160, outputs=10), (1, 32, 32, 3), 1_857_610),
        (MLP(widths=(), outputs=10), (1, 8, 8, 1), 650),
    ],
)
def test_parameter_counts(model, shape, parameters):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (RNN(), (1, 8), r"sequences \[batch, time, features\], got \(1, 8\)"),
        (RCNN(stages=3), (1, 6, 6, 1), "at least 8x8"),
        (ConvLSTMForecaster(patch=4), (1, 2, 6, 8, 1), "multiples of patch=4"),
        (ConvLSTMForecaster(), (1, 8, 8, 1), "needs frames"),
    ],
)
def test_a_model_refuses_unsupported_inputs_by_name(model, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(widths=()), "at least one size"),
        (lambda: RNN(widths=(0,)), "at least 1"),
        (lambda: RBF(centres=0), "RBF.centres is at least 1, got 0"),
        (lambda: RCNN(stages=0), "RCNN.stages is at least 1, got 0"),
        (lambda: ConvLSTMForecaster(kernel=4), "odd kernel"),
        (lambda: ConvLSTMForecaster(ahead=0), "ahead is at least 1"),
        (lambda: NextFrame(model=ConvLSTMForecaster(), white=0.0), "white is above 0"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_adding_problem_follows_its_definition():
    data = AddingProblem(length=9, train=400, test=50, seed=3).open()
    x, y = data.train["inputs"], data.train["targets"]
    assert x.shape == (400, 9, 2)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(1), y, rtol=1e-6)
    first, second = x[:, :4, 1], x[:, 4:, 1]
    assert (first.sum(1) == 1).all()
    assert (second.sum(1) == 1).all()
    assert first.any(0).all()
    assert second.any(0).all()
    assert AddingProblem(length=9, train=400, test=50, seed=3).open().fingerprint == data.fingerprint
    assert AddingProblem(length=9, train=400, test=50, seed=4).open().fingerprint != data.fingerprint
    with pytest.raises(DataError, match="length is at least 2, got 1"):
        AddingProblem(length=1).open()


def test_spirals_alternate_and_a_straight_line_cannot_separate_them():
    data = TwoSpirals(train=200, test=101, noise=0.0, turns=1.5).open()
    x, y = data.train["inputs"], data.train["targets"]
    assert x.shape == (200, 2)
    assert np.bincount(y).tolist() == [100, 100]
    # Opposite points: the second spiral is the first, turned by half a turn.
    np.testing.assert_allclose(x[0::2], -x[1::2], atol=1e-6)
    radius = np.linalg.norm(x[0::2], axis=1)
    assert (np.diff(radius) > 0).all()
    assert radius[-1] == pytest.approx(1.0, abs=0.01)
    solution = np.linalg.lstsq(np.c_[x, np.ones(200)], 2.0 * y - 1, rcond=None)[0]
    assert ((np.c_[x, np.ones(200)] @ solution > 0) == y).mean() < 0.75
    with pytest.raises(DataError, match="turns above 0"):
        TwoSpirals(turns=0.0).open()


def test_moving_digits_move_at_their_speed_and_stay_inside():
    data = MovingDigits(count=1, size=24, seen=4, ahead=2, speed=2.5, train=30, test=5, seed=1).open()
    films = np.concatenate([data.train["inputs"], data.train["targets"]], axis=1)[..., 0]
    assert films.shape == (30, 6, 24, 24)
    assert films.dtype == np.uint8
    mass = films.astype(float).sum(axis=(2, 3))
    np.testing.assert_allclose(mass, mass[:, :1].repeat(6, 1))  # nothing leaves the frame
    rows = (films.astype(float).sum(3) * np.arange(24)).sum(2) / mass
    columns = (films.astype(float).sum(2) * np.arange(24)).sum(2) / mass
    way = np.hypot(np.diff(rows), np.diff(columns))
    assert way.max() <= 2.5 + 2**0.5
    assert np.median(way) == pytest.approx(2.5, abs=0.5)
    assert data.prepare(jnp.asarray([255], jnp.uint8)) == 1.0
    with pytest.raises(DataError, match="cannot hold digits of 16; set size=16"):
        MovingDigits(size=12).open()
    with pytest.raises(DataError, match="leave its frame"):
        MovingDigits(size=18, speed=4.0).open()


def test_next_frame_is_compared_with_copying():
    rng = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(rng.random((3, 2, 4, 4, 1)), jnp.float32),
        "targets": jnp.asarray(rng.integers(0, 256, (3, 1, 4, 4, 1)), jnp.uint8),
        "mask": jnp.array([1.0, 1.0, 0.0]),
    }
    for error in ("cross_entropy", "squared"):
        task = NextFrame(model=ConvLSTMForecaster(features=(2,), patch=2), error=error)
        variables = jax.jit(task.init)(jax.random.key(0), batch)
        said = np.asarray(jax.jit(task.model.apply)(variables, batch["inputs"]), np.float64)[:2]
        true, last = (
            np.asarray(batch["targets"], np.float64)[:2] / 255,
            np.asarray(batch["inputs"], np.float64)[:2, -1:],
        )
        frames = sigmoid(said) if error == "cross_entropy" else said
        entropy = -(true * np.log(sigmoid(said)) + (1 - true) * np.log(1 - sigmoid(said))).mean()
        mse, copy = ((frames - true) ** 2).mean(), ((last - true) ** 2).mean()
        got = task.derive({name: float(mean.value) for name, mean in jax.jit(task.metrics)(variables, batch).items()})
        wanted = {
            "loss": entropy if error == "cross_entropy" else mse,
            "mse": mse,
            "copy_mse": copy,
            "gain": copy / mse,
        }
        assert got == pytest.approx(wanted, rel=1e-5)
        outputs = np.asarray(jax.jit(task.outputs)(variables, batch))
        np.testing.assert_allclose(outputs[:2], frames, rtol=1e-5, atol=1e-6)
        gallery = task.exhibits(outputs, jax.tree.map(np.asarray, batch), None)[0]
        assert len(gallery.images) == len(gallery.captions) == 9


def test_next_frame_refuses_what_is_not_a_film(experiment, blobs, one_device):
    task = NextFrame(model=ConvLSTMForecaster(ahead=1))
    with pytest.raises(DataError, match=r"needs films \[time, height, width, channels\].*classes"):
        task.bind(blobs.card)
    films = MovingDigits(seen=2, ahead=3, train=8, test=4).open()
    with pytest.raises(DataError, match="set the model's `ahead` to that of the data, 3"):
        assemble(replace(experiment, task=task, batch_size=4), films, mesh=one_device)


def trained(experiment, task, dataset, mesh, **changes):
    parts = assemble(replace(experiment, task=task, **changes), dataset, mesh=mesh)
    with jax.set_mesh(mesh):
        state = fit(parts.program, parts.fresh_state(), start=0, stop=parts.experiment.steps)
        return state, parts.evaluator.metrics(state.variables)


def test_adaline_finds_the_least_squares_solution(experiment, one_device):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 64)
    x = (rng.normal(size=(64, 3)) + 0.8 * y[:, None]).astype(np.float32)
    dataset = from_arrays(x, y, test=(x, y), standardize=False)
    optimizer = SGD(learning_rate=0.05, momentum=0.0, schedule=Constant())
    task = Adaline(model=Perceptron())
    state, values = trained(experiment, task, dataset, one_device, optimizer=optimizer, batch_size=64, steps=1000)
    rows, sign = np.c_[x, np.ones(64)].astype(np.float64), 2.0 * y - 1
    solution = np.linalg.lstsq(rows, sign, rcond=None)[0]
    got = np.r_[np.asarray(state.params["neuron"]["kernel"])[:, 0], np.asarray(state.params["neuron"]["bias"])]
    np.testing.assert_allclose(got, solution, rtol=1e-4, atol=1e-4)
    assert values["loss"] == pytest.approx(((rows @ solution - sign) ** 2).mean(), rel=1e-4)
    assert values["accuracy"] == pytest.approx(((rows @ solution > 0) == y).mean())
    three = Card(
        name="c", input_shape=(2,), target_kind="class", examples={"train": 8, "test": 4}, class_names=tuple("abc")
    )
    with pytest.raises(DataError, match="two classes"):
        Adaline(model=Perceptron()).bind(three)


def test_the_perceptron_rule_converges_within_novikoffs_bound(experiment, one_device):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    side = x @ [1.0, -0.5] + 0.1
    x, y = x[np.abs(side) > 0.1].astype(np.float32), (side[np.abs(side) > 0.1] > 0).astype(int)
    dataset = from_arrays(x, y, test=(x, y), standardize=False)
    task = PerceptronRule(model=Perceptron())
    state, values = trained(experiment, task, dataset, one_device, batch_size=len(x), steps=40)
    rows = np.c_[x, np.ones(len(x))].astype(np.float64)
    w = np.r_[np.asarray(state.params["neuron"]["kernel"])[:, 0], np.asarray(state.params["neuron"]["bias"])]
    margin = ((2 * y - 1) * (rows @ w)).min() / np.linalg.norm(w)
    assert values["converged"] == 1
    assert values["accuracy"] == 1
    assert values["bound"] == pytest.approx((np.linalg.norm(rows, axis=1).max() / margin) ** 2, rel=1e-3)
    # The rule, by hand: every update adds +-row to weights that began at 0.
    assert 0 < values["updates"] <= values["bound"]
    assert values["updates"] >= np.abs(w[2])


def test_convergence_is_not_claimed_of_a_run_that_left_an_example_out(experiment, one_device):
    # Eight clear points and two equal ones of different classes, which nothing separates. So many right in a row as there are
    # points may leave one of the two out, between one epoch and the next.
    x = [[-3, 0], [-3, 1], [-2, 0.5], [-2, 0], [3, 0], [3, 1], [2, 0.5], [2, 0], [2.5, 0.5], [2.5, 0.5]]
    x, y = np.array(x, np.float32), np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    dataset = from_arrays(x, y, test=(x, y), standardize=False)
    task = PerceptronRule(model=Perceptron())
    run = replace(experiment, task=task, batch_size=1, steps=300, eval_every=1)
    history = train(run, dataset=dataset, mesh=one_device, progress="none").history
    claims = [record["converged"] for record in history if record["split"] == "test"]
    assert len(claims) == 300
    assert not any(claims)
    # Where an epoch leaves examples out, nothing can be told.
    values = trained(experiment, task, dataset, one_device, batch_size=4, steps=20)[1]
    assert "converged" not in values
    assert "bound" not in values


def test_the_perceptron_rule_refuses_other_models_and_settings(blobs):
    with pytest.raises(DataError, match="trains a Perceptron, .* not a MLP; use Classification"):
        PerceptronRule(model=MLP()).bind(LogicGate(gate="and").open().card)
    for wrong in ({"rate": -1.0}, {"rate": float("nan")}, {"examples": 0}):
        with pytest.raises(ValueError, match="rate is above 0 and examples at least 1"):
            PerceptronRule(model=Perceptron(), **wrong)


@pytest.mark.parametrize("gate", ["and", "or", "xor"])
def test_a_perceptron_learns_and_and_or_but_never_converges_on_xor(experiment, one_device, gate):
    dataset = LogicGate(gate=gate).open()
    task = PerceptronRule(model=Perceptron())
    _, values = trained(experiment, task, dataset, one_device, batch_size=4, steps=300)
    assert values["converged"] == (gate != "xor")
    assert (values["accuracy"] == 1) == (gate != "xor")
    if gate == "xor":
        assert "bound" not in values
        assert values["updates"] >= 300  # at least one in every pass, for ever


def test_a_logic_gate_is_its_truth_table():
    data = LogicGate(gate="xor", inputs=3).open()
    assert data.train["inputs"].shape == (8, 3)
    np.testing.assert_array_equal(data.train["targets"], data.train["inputs"].sum(1) % 2)
    np.testing.assert_array_equal(LogicGate(gate="and").open().train["targets"], [0, 0, 0, 1])
    np.testing.assert_array_equal(LogicGate(gate="or").open().train["targets"], [0, 1, 1, 1])
    with pytest.raises(DataError, match="1 to 16 inputs, got 17"):
        LogicGate(inputs=17).open()


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["simple", "lstm", "gru"])
def test_a_text_in_pieces_gives_the_outputs_of_the_whole(cell):
    model = RNN(cell=cell, widths=(5, 4), answer="every", vocab_size=9, embedding=3)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 9, (2, 11)), jnp.int32)
    variables = jax.jit(model.init)(jax.random.key(0), tokens)
    variables = jax.tree.map(lambda a: a * 3, variables)
    whole = jax.jit(model.apply)(variables, tokens)
    cache, pieces, go_on = model.empty_cache(2, 11), [], jax.jit(model.apply)
    for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:]):
        logits, cache = go_on(variables, part, cache=cache)
        pieces.append(logits)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=1e-5)
    # The likeliest token again and again, each time from the whole text.
    text = tokens[:, :4]
    for _ in range(5):
        text = jnp.concatenate([text, jax.jit(model.apply)(variables, text)[:, -1:].argmax(-1)], 1)
    said = generate(model, variables, tokens[:, :4], 5, key=jax.random.key(0), sampling=Sampling(temperature=0))
    np.testing.assert_array_equal(said, text[:, 4:])


@pytest.mark.parametrize("wrong", [{"answer": "last"}, {"answer": "every", "bidirectional": True}])
def test_a_bidirectional_network_cannot_continue_a_text(wrong):
    with pytest.raises(ValueError, match="generates text only with answer='every' and bidirectional=False"):
        RNN(**wrong).empty_cache(1, 5)


@pytest.mark.slow
def test_a_gru_learns_to_add_where_a_simple_cell_is_much_worse(one_device):
    run, errors = config.load("adding_gru").experiment, {}
    data = run.data.open()
    for cell in ("gru", "simple"):
        task = replace(run.task, model=run.task.model.clone(cell=cell))
        errors[cell] = trained(run, task, data, one_device)[1]["mse"]
    assert errors["gru"] < 0.01
    assert errors["simple"] > 0.1  # always answering the mean: .167
