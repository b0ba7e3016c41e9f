"""Half-spaces, polytopes, unions and covers by cubes, against the definitions of the sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnets import theory


def points(count, dims, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, dims)).astype(np.float32).astype(float)


def test_a_half_space_and_the_point_on_its_edge():
    half = theory.half_space([1.0, 1.0], 1.0)
    np.testing.assert_array_equal(half.fires([[0.25, 0.5], [0.5, 0.5], [0.75, 0.5]]), [True, True, False])


@settings(max_examples=5, deadline=None)
@given(st.integers(3, 9), st.integers(0, 1000))
def test_a_polygon_contains_what_its_edges_enclose(corners, seed):
    angles = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, corners))
    normals, offsets = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.full(corners, 0.3)
    offsets = offsets + normals @ [0.5, 0.5]
    x = points(20_000, 2, seed)
    distance = x @ normals.T - offsets
    clear = np.abs(distance).min(axis=1) > 1e-6
    network = theory.polytope(normals, offsets)
    np.testing.assert_array_equal(network.fires(x)[clear], (distance <= 0).all(axis=1)[clear])
    assert network.model.widths == (corners,)


def test_a_union_of_polytopes_that_is_not_convex():
    def box(low, high):
        return np.concatenate([np.eye(2), -np.eye(2)]), np.concatenate([high, -np.array(low)])

    corner = [box([0.0, 0.0], [0.75, 0.25]), box([0.0, 0.0], [0.25, 0.75])]
    network = theory.union(corner)
    x = points(100_000, 2)
    want = ((x <= [0.75, 0.25]).all(axis=1)) | ((x <= [0.25, 0.75]).all(axis=1))
    np.testing.assert_array_equal(network.fires(x), want)
    assert network.model.widths == (8, 2)
    # Both ends are in it and their middle is not.
    np.testing.assert_array_equal(network.fires([[0.7, 0.2], [0.2, 0.7], [0.45, 0.45]]), [True, True, False])


@pytest.mark.parametrize("count", [10, 40])
def test_cubes_cover_a_disc_with_an_error_that_falls_with_their_side(count):
    centres = theory.cells(2, count)
    mask = np.square(centres - 0.5).sum(axis=-1) <= 0.3**2
    network = theory.cube_cover(mask)
    x = points(4000, 2)
    inside = np.square(x - 0.5).sum(axis=1) <= 0.3**2
    wrong = (network.fires(x) != inside).mean()
    assert 0 < wrong <= 8 * 0.3 / count
    assert network.model.widths == (2 * (count + 1), mask.sum())


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 1000))
def test_a_cover_is_the_mask_it_was_made_of(dims, count, seed):
    mask = np.random.default_rng(seed).uniform(size=(count,) * dims) < 0.5
    mask.flat[0] = True
    network = theory.cube_cover(mask)
    centres = theory.cells(dims, count)
    np.testing.assert_array_equal(network.fires(centres.reshape(-1, dims)), mask.ravel())
    assert network.model.widths[0] == dims * (count + 1)
    assert not network.fires(np.full((1, dims), 1.5)).any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: theory.polytope(np.ones((2, 2)), np.ones(3)), "normals \\[M, N\\] and offsets"),
        (lambda: theory.union([]), "at least one polytope"),
        (lambda: theory.union([(np.eye(2), np.ones(2)), (np.eye(3), np.ones(3))]), "one space"),
        (lambda: theory.cube_cover(np.zeros((2, 2))), "a cell that is True"),
        (lambda: theory.cube_cover(np.ones((2, 3))), "same number of cells"),
        (lambda: theory.cells(0, 3), "at least 1 dim"),
    ],
)
def test_invalid_sets_are_refused_with_the_reason(make, said):
    with pytest.raises(ValueError, match=said):
        make()
