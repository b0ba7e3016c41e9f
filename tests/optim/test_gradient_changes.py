"""What is done to the gradient before the optimizer: by number, on one device and on eight, and after a resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_close, assert_same_bits, replace

import jaxnets
from jaxnets.config.serialize import YOUNGER, digest, from_data, to_data
from jaxnets.core.errors import UsageError
from jaxnets.models import MLP
from jaxnets.ops.random import stream_key
from jaxnets.optim import SGD, Constant, Gradient, Penalty
from jaxnets.parallel import MeshShape, make_mesh
from jaxnets.runs.build import assemble
from jaxnets.steps.recipe import Recipe
from jaxnets.training.loop import fit

KEY = stream_key(0, "test", 0)
PARAMS = {"kernel": np.array([[3.0, 0.0], [4.0, 0.001]], np.float32), "bias": np.array([0.0, 2.0], np.float32)}
SLOPES = {"kernel": np.array([[6.0, 1.0], [8.0, -3.0]], np.float32), "bias": np.array([0.5, -0.5], np.float32)}
PLAIN = SGD(learning_rate=0.1, momentum=0.0, schedule=Constant())


def changed(gradient, step=0):
    return gradient.apply(SLOPES, PARAMS, KEY, jnp.int32(step))


def test_numbers_are_clipped():
    found = changed(Gradient(clip_value=2.0))
    assert_close(found, jax.tree.map(lambda g: np.clip(g, -2, 2), SLOPES))


def test_units_are_clipped_by_the_norm_of_their_weights():
    """Brock et al. 2021, equation 3: a unit is a column of a matrix, or a whole vector; weights are at least 1e-3."""
    found = changed(Gradient(clip_adaptive=0.1))
    columns = [SLOPES["kernel"][:, j] * min(1, 0.1 * max(norm, 1e-3) / np.linalg.norm(SLOPES["kernel"][:, j]))
               for j, norm in enumerate(np.linalg.norm(PARAMS["kernel"], axis=0))]  # fmt: skip
    np.testing.assert_allclose(found["kernel"], np.stack(columns, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["bias"], SLOPES["bias"] * 0.2 / np.linalg.norm(SLOPES["bias"]), rtol=1e-5)


def test_columns_are_centred_and_vectors_stay():
    found = changed(Gradient(centralize=True))
    np.testing.assert_allclose(found["kernel"], SLOPES["kernel"] - SLOPES["kernel"].mean(axis=0, keepdims=True))
    np.testing.assert_array_equal(found["bias"], SLOPES["bias"])


def test_the_variance_of_the_noise_falls_as_in_the_paper():
    """Neelakantan et al. 2015, section 3: sigma^2 = eta / (1 + t)^gamma."""
    zeros = {"kernel": jnp.zeros((200, 100)), "bias": jnp.zeros(20_000)}
    for step in (0, 9):
        found = Gradient(noise=0.3, noise_decay=0.55).apply(zeros, zeros, KEY, jnp.int32(step))
        for leaf in jax.tree.leaves(found):  # of 20,000 draws the variance is known to 1 %: 4 sigma
            np.testing.assert_allclose(leaf.var(), 0.3 / (1 + step) ** 0.55, rtol=0.04)
        apart = np.corrcoef(found["kernel"].ravel(), found["bias"])[0, 1]
        assert abs(apart) < 0.03  # independent: 4 sigma


def trained(parts, state, start, stop):
    """The state after some steps."""
    with jax.set_mesh(parts.mesh):
        return fit(parts.program, state, start=start, stop=stop)


@pytest.mark.smoke
def test_clipping_and_noise_are_the_same_on_one_device_on_eight_and_after_resuming(experiment, blobs, one_device):
    # A norm far below that of the gradients, so that all is clipped; then noise, which no device may draw on its own.
    rule = SGD(learning_rate=0.5, momentum=0.0, schedule=Constant(), clip_norm=0.01)
    changes = Gradient(clip_value=0.05, clip_adaptive=0.5, noise=1e-4)
    changed = replace(
        experiment, optimizer=rule, gradient=changes, penalty=Penalty(weight_noise=0.1), steps=4, steps_per_call=2
    )
    alone, shared = (assemble(changed, blobs, mesh=mesh) for mesh in (one_device, make_mesh(MeshShape(fsdp=8))))
    whole = trained(alone, alone.fresh_state(), 0, 4)
    # Sums in another order: measured 2e-9. An update has the norm 0.005, so that another noise differs by 1e-4.
    assert_close(whole.params, trained(shared, shared.fresh_state(), 0, 4).params, atol=1e-7)
    half = jax.tree.map(np.asarray, trained(alone, alone.fresh_state(), 0, 2))
    assert_same_bits(trained(alone, jax.device_put(half, alone.shardings), 2, 4), whole)


def test_another_step_player_or_turn_has_other_noise():
    recipe = Recipe(optax.identity(), gradient=Gradient(noise=1.0, noise_decay=0.0))
    critic = recipe.of("critic", 0)
    draws = [
        one.treated(SLOPES, PARAMS, jnp.int32(step))["bias"]
        for one, step in (
            (recipe, 0),
            (recipe, 1),
            (critic, 0),
            (recipe.of("critic", 1), 0),
            (recipe.of("generator", 0), 0),
        )
    ]
    for number, draw in enumerate(draws):
        assert all(np.abs(draw - other).min() > 1e-6 for other in draws[:number])
    np.testing.assert_array_equal(critic.treated(SLOPES, PARAMS, jnp.int32(0))["bias"], draws[2])


def test_a_users_own_optimizer_gets_the_changed_gradient(blobs):
    def largest(gradient):
        seen = optax.GradientTransformation(
            lambda params: {"most": jnp.zeros(())},
            lambda g, state, params=None: (
                g,
                {"most": jnp.stack([jnp.abs(x).max() for x in jax.tree.leaves(g)]).max()},
            ),
        )
        options = {"optimizer": seen, "steps": 1, "batch_size": 16, "progress": "none", "gradient": gradient}
        return float(jaxnets.fit(MLP(widths=(4,)), blobs, **options).state.opt_state["most"])

    assert largest(Gradient()) > 0.02
    assert largest(Gradient(clip_value=0.01)) == pytest.approx(0.01)


def test_by_default_the_program_of_a_step_is_unchanged(experiment, blobs):
    def text(**changes):
        parts = assemble(replace(experiment, **changes), blobs)
        with jax.set_mesh(parts.mesh):
            return jax.jit(parts.task.make_step(parts.recipe)).lower(parts.abstract, parts.batch_spec).as_text()

    plain = text()
    assert text(gradient=Gradient(), penalty=Penalty()) == plain
    assert text(gradient=Gradient(clip_value=1.0)) != plain


def test_an_experiment_with_changes_is_saved_and_defaults_do_not_change_its_name(experiment):
    changed = replace(experiment, gradient=Gradient(noise=0.1), penalty=Penalty(l1=1e-4, on=("*kernel",)))
    assert from_data(to_data(changed)) == changed
    assert digest(changed) != digest(experiment)
    data = {key: value for key, value in to_data(experiment).items() if key not in ("gradient", "penalty")}
    assert from_data(data) == experiment
    assert digest(from_data(data)) == digest(experiment)
    assert {"gradient", "penalty"} <= YOUNGER["Experiment"].keys()
    for name in ("gradient", "penalty"):
        assert YOUNGER["Experiment"][name] == to_data(experiment)[name]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clip_value": 0.0}, "gradient.clip_value is positive"),
        ({"clip_adaptive": -1.0}, "gradient.clip_adaptive is positive"),
        ({"noise": -1.0}, "gradient.noise is at least 0"),
    ],
)
def test_bad_fields_are_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Gradient(**fields)


def test_units_of_arrays_with_too_many_dims_are_unknown():
    with pytest.raises(UsageError, match="layers/kernel has 6; use gradient.clip_value"):
        Gradient(clip_adaptive=0.1).check({"layers": {"kernel": np.zeros((1,) * 6)}})
