"""Toy data: examples by number, what separates them, a student that becomes its teacher."""

import jax
import numpy as np
import pytest

import jaxnets
from jaxnets import theory
from jaxnets.core.errors import DataError
from jaxnets.data import Disc, Glyphs, HalfMoons, Teacher
from jaxnets.data.sources.toys import DIGITS, glyph
from jaxnets.models import MLP
from jaxnets.optim import Adam

SOURCES = [Disc(), HalfMoons(), Teacher(), Glyphs()]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_an_example_depends_only_on_the_seed_and_its_number(source):
    kind = type(source)
    few, many, other = kind(train=50, test=20).open(), kind(train=70, test=1).open(), kind(train=50, seed=1).open()
    np.testing.assert_array_equal(few.train["inputs"], many.train["inputs"][:50])
    np.testing.assert_array_equal(few.test["inputs"], many.train["inputs"][50:70])
    np.testing.assert_array_equal(few.test["targets"], many.train["targets"][50:70])
    assert np.abs(few.train["inputs"] - other.train["inputs"]).max() > 0.1
    assert len(np.unique(few.train["inputs"].reshape(50, -1), axis=0)) == 50


@pytest.mark.smoke
def test_the_share_of_the_disc_and_the_places_of_the_moons():
    found = Disc(train=20_000, test=1).open().train["targets"].mean()
    assert found == pytest.approx(np.pi * 0.3**2, abs=0.01)  # three standard deviations of the mean
    moons = HalfMoons(train=400, test=1, noise=0.0).open().train
    upper = moons["inputs"][moons["targets"] == 0]
    np.testing.assert_allclose(np.hypot(*upper.T), 1, atol=1e-6)
    assert (upper[:, 1] >= 0).all()
    lower = moons["inputs"][moons["targets"] == 1]
    np.testing.assert_allclose(np.hypot(*(lower - [1.0, 0.5]).T), 1, atol=1e-6)


def test_no_line_separates_a_disc_or_moons():
    for source in (Disc(train=300, test=1), HalfMoons(train=300, test=1, noise=0.05)):
        arrays = source.open().train
        points = np.c_[arrays["inputs"], np.ones(300)]
        assert theory.separating_plane(points, 2 * arrays["targets"] - 1) is None


def test_zeros_and_ones_of_the_glyphs_are_not_separated_by_a_hyperplane():
    """A digit and its inverse have a grey image between them, whatever the digit."""
    arrays = Glyphs(train=10_000, test=1, noise=0.02).open().train
    chosen = arrays["targets"] <= 1
    points = np.c_[arrays["inputs"][chosen].reshape(chosen.sum(), -1), np.ones(chosen.sum())]
    assert theory.separating_plane(points, 2 * arrays["targets"][chosen] - 1) is None


def test_glyphs_are_drawn_as_their_dots():
    key = jax.random.key(0)
    number = next(n for n in range(3, 100, 10) if float(glyph(key, np.int32(n), noise=0.0)[0][0, 0, 0]) == 0)
    image, label = glyph(key, np.int32(number), noise=0.0)  # light on dark: a corner is never part of a digit's dots
    assert int(label) == 3
    dots = np.asarray([[row >> bit & 1 for bit in range(4, -1, -1)] for row in DIGITS[3]])
    found = np.asarray(image[..., 0])
    rows, columns = np.nonzero(found)
    drawn = found[rows.min() : rows.min() + 7, columns.min() : columns.min() + 5]
    np.testing.assert_array_equal(drawn > 0, dots > 0)
    assert 0.6 <= found.max() <= 1.0


@pytest.mark.slow
def test_a_student_learns_its_teacher_and_a_network_learns_the_glyphs():
    data, given = Teacher(train=2000).open(), {"optimizer": Adam(learning_rate=1e-2), "progress": "none"}
    taught = jaxnets.fit(MLP(widths=(16,), activation="tanh"), data, steps=3000, **given)
    assert taught.evaluate()["rmse"] < 0.1  # the deviation of the targets is about 1
    read = jaxnets.fit(MLP(widths=(128,)), Glyphs(train=5000).open(), steps=1500, **given)
    assert read.evaluate()["accuracy"] > 0.95


@pytest.mark.parametrize(
    "source", [Disc(train=0), Disc(radius=0.6), HalfMoons(noise=-1.0), Teacher(units=0), Glyphs(test=0)]
)
def test_settings_out_of_range_are_refused(source):
    with pytest.raises(DataError, match=type(source).__name__):
        source.open()
