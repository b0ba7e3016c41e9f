"""Operations on images against PIL and scipy; which draws they take."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from jaxnets.core.errors import DataError
from jaxnets.data import CIFAR10, MNIST, Augment, Digits, from_arrays
from jaxnets.data.augment import Facts, Pixels, colour, geometry, policies
from jaxnets.data.facts import facts_of

RNG = np.random.default_rng(0)
# A photograph-like image: smooth, with noise, of every brightness.
Y, X = np.mgrid[0:20, 0:26]
PHOTO = np.stack([127 + 90 * np.sin(X / 5), 120 + 100 * np.cos(Y / 4), 8 * X + Y], axis=-1)
PHOTO = np.clip(PHOTO + RNG.normal(0, 9, PHOTO.shape), 3, 250).astype(np.uint8)
H, W, _ = PHOTO.shape
PIXELS = jnp.asarray(PHOTO / 255.0, jnp.float32)


def matrix_of(values):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, values)


# Strength of each operation, the same by PIL, and the largest difference in 8-bit steps: PIL rounds the grey image or mean
# that it blends with to whole steps, and truncates the result.
BY_PIL = {
    "shear_x": (0.37, matrix_of((1, 0.37, 0, 0, 1, 0)), 0),
    "shear_y": (-0.23, matrix_of((1, 0, 0, -0.23, 1, 0)), 0),
    "translate_x": (5.0, matrix_of((1, 0, 5, 0, 1, 0)), 0),
    "translate_y": (-7.0, matrix_of((1, 0, 0, 0, 1, -7)), 0),
    "rotate": (31.7, lambda image: image.rotate(31.7), 0),
    "identity": (0.0, lambda image: image, 0),
    "brightness": (1.4, lambda image: ImageEnhance.Brightness(image).enhance(1.4), 1),
    "saturation": (0.3, lambda image: ImageEnhance.Color(image).enhance(0.3), 1.35),
    "contrast": (1.7, lambda image: ImageEnhance.Contrast(image).enhance(1.7), 1.35),
    "sharpness": (1.8, lambda image: ImageEnhance.Sharpness(image).enhance(1.8), 1.4),
    "posterize": (3, lambda image: ImageOps.posterize(image, 3), 0),
    "solarize": (100.5 / 255, lambda image: ImageOps.solarize(image, 101), 0),
    "autocontrast": (0.0, ImageOps.autocontrast, 1),
    "equalize": (0.0, ImageOps.equalize, 0),
}


@pytest.mark.smoke
def test_operations_of_the_policies_equal_those_of_pil():
    assert tuple(BY_PIL) == policies.OPERATIONS
    strength = jnp.asarray([strong for strong, _, _ in BY_PIL.values()], jnp.float32)
    perform = jax.jit(policies.perform)
    for number, (name, (_, by_pil, most)) in enumerate(BY_PIL.items()):
        ours = np.asarray(perform(PIXELS, number, strength)) * 255
        theirs = np.asarray(by_pil(Image.fromarray(PHOTO)), np.float64)
        # PIL truncates where it blends; float32 is exact to 1e-4 of a step.
        np.testing.assert_allclose(ours, theirs, atol=most + 0.01, err_msg=name)
        assert name == "identity" or np.abs(theirs - PHOTO).max() > 10, f"{name} changed nothing"


def test_equalize_keeps_a_constant_image_and_works_channel_by_channel():
    flat = np.full((6, 6, 3), 77, np.uint8)
    np.testing.assert_array_equal(colour.equalize(jnp.asarray(flat / 255.0)) * 255, flat)
    two = np.where(np.arange(36).reshape(6, 6, 1) < 18, [10, 20, 30], [11, 200, 30]).astype(np.uint8)
    theirs = np.asarray(ImageOps.equalize(Image.fromarray(two)))
    np.testing.assert_allclose(colour.equalize(jnp.asarray(two / 255.0)) * 255, theirs, atol=1e-3)


def test_hue_and_grey_equal_their_definitions():
    turned = np.asarray(colour.hue(PIXELS, 0.3))
    for y, x in ((0, 0), (3, 17), (12, 5), (19, 25)):
        h, s, v = colorsys.rgb_to_hsv(*(PHOTO[y, x] / 255.0))
        np.testing.assert_allclose(turned[y, x], colorsys.hsv_to_rgb((h + 0.3) % 1, s, v), atol=2e-6)
    np.testing.assert_allclose(colour.hue(PIXELS, 0.0), PIXELS, atol=2e-6)
    luma = np.asarray(Image.fromarray(PHOTO).convert("L"), np.float64)
    np.testing.assert_allclose(colour.grey(PIXELS)[..., 1] * 255, luma, atol=0.51)


@pytest.mark.parametrize(("padding", "mode"), [("zero", "grid-constant"), ("reflect", "mirror"), ("edge", "nearest")])
def test_affine_maps_equal_scipys(padding, mode):
    image = RNG.normal(size=(9, 12, 2)).astype(np.float32)
    matrix = np.asarray(geometry.rotation(jnp.asarray(25.0), 9, 12))
    ours = geometry.affine(jnp.asarray(image), jnp.asarray(matrix), between="linear", padding=padding)
    # Theirs has rows first and the centres of pixels at whole numbers.
    turn, move = matrix[::-1, 1::-1], matrix[::-1, 2]
    offset = move + turn @ [0.5, 0.5] - 0.5
    for c in range(2):
        theirs = ndimage.affine_transform(image[..., c].astype(np.float64), turn, offset, order=1, mode=mode)
        np.testing.assert_allclose(ours[..., c], theirs, atol=1e-5)
    shifted = geometry.shift(jnp.asarray(image), 1, 5, 3, padding)
    modes = {"zero": "constant", "reflect": "reflect", "edge": "edge"}
    np.testing.assert_array_equal(
        shifted, np.pad(image, ((3, 3), (3, 3), (0, 0)), mode=modes[padding])[1 : 1 + 9, 5 : 5 + 12]
    )


def test_a_resized_crop_equals_pils_and_its_box_is_in_the_image():
    box = (4.0, 3.0, 21.0, 14.0)  # left, top, right, bottom
    ours = geometry.resized_crop(PIXELS, *map(jnp.float32, (3.0, 4.0, 11.0, 17.0)))
    for c in range(3):
        theirs = Image.fromarray(PHOTO[..., c].astype(np.float32)).resize((W, H), Image.Resampling.BILINEAR, box=box)
        np.testing.assert_allclose(ours[..., c] * 255, np.asarray(theirs), atol=2e-3)
    keys = jax.random.split(jax.random.key(0), 500)
    top, left, height, width = map(np.asarray, jax.jit(jax.vmap(lambda k: geometry.crop_box(k, (20, 26), 0.3)))(keys))
    assert min(top.min(), left.min()) >= 0
    assert (top + height).max() <= 20
    assert (left + width).max() <= 26
    area, ratio = height * width / (20 * 26), width / height
    assert 0.26 < area.min() < 0.35  # sides are rounded
    assert area.max() > 0.9
    inner = ratio[(height < 20) | (width < 26)]
    assert 0.68 < inner.min() < 0.85
    assert 1.2 < inner.max() < 1.45


def test_random_erasing_takes_a_rectangle_with_its_probability():
    images = jnp.full((400, 20, 26, 1), 0.5)
    erased = np.asarray(jax.jit(Augment(erase=0.25))(images, jax.random.key(3)))
    holes = (erased != 0.5)[..., 0]
    touched = holes.any(axis=(1, 2))
    assert 70 < touched.sum() < 130  # four deviations around 100
    for hole in holes[touched]:
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        height, width = len(rows), len(columns)
        assert hole.sum() == height * width <= 0.4 * 20 * 26
        assert (height + 1) * (width + 1) >= 0.02 * 20 * 26
    values = erased[..., 0][holes]
    assert values.min() >= 0
    assert values.max() <= 1
    assert abs(values.mean() - 0.5) < 0.02


def test_colout_keeps_rows_and_columns_in_order():
    image = jnp.arange(20.0 * 10).reshape(20, 10, 1)
    kept = np.asarray(geometry.colout(image, jax.random.key(0), 0.15))[..., 0]
    assert kept.shape == (17, 8)
    rows, columns = kept[:, 0] // 10, kept[0] % 10
    np.testing.assert_array_equal(kept, rows[:, None] * 10 + columns[None])
    assert (np.diff(rows) > 0).all()
    assert (np.diff(columns) > 0).all()


def test_the_spaces_of_the_policies_are_those_of_the_papers():
    one, plus = jnp.ones(()), jnp.ones(())
    names = policies.OPERATIONS
    wide = dict(zip(names, np.asarray(policies.wide(one, plus)), strict=True))
    want = {"shear_x": 0.99, "translate_y": 32, "rotate": 135, "brightness": 1.99, "posterize": 2, "solarize": 0}
    assert {name: wide[name] for name in want} == pytest.approx(want)
    # RandAugment at 9 of 30, as torchvision tabulates it for 224 pixels.
    nine = dict(zip(names, np.asarray(policies.randaugment_strengths(one * 0.3, -plus, (224, 224))), strict=True))
    want = {"shear_x": -0.09, "translate_x": -150 / 331 * 224 * 0.3, "rotate": -9, "contrast": 0.73, "solarize": 0.7}
    assert {name: nine[name] for name in want} == pytest.approx(want)
    assert nine["posterize"] == 7
    # At level 0 every operation but those without a level is the identity.
    none = policies.wide(jnp.zeros(()), plus)
    perform = jax.jit(policies.perform)
    white = jnp.where(PIXELS > 0.9, 1.0, jnp.round(PIXELS * 255) / 255)
    for number, name in enumerate(names):
        if name not in ("autocontrast", "equalize"):
            np.testing.assert_allclose(perform(white, number, none), white, atol=1e-6)


@pytest.mark.slow
def test_policies_give_pixels_and_augmix_stays_near_the_image():
    images = jnp.broadcast_to(PIXELS, (12, *PIXELS.shape))
    for policy in ("trivial", "randaugment", "augmix"):
        made = np.asarray(jax.jit(Augment(policy=policy))(images, jax.random.key(0)))
        assert made.min() >= -1e-5
        assert made.max() <= 1 + 1e-5
        assert len({one.tobytes() for one in made}) > 6, "images draw alike"
    # `made` is AugMix's, a convex combination: it never goes beyond what its chains hold, and few pixels move far.
    assert np.abs(made - np.asarray(images)).mean() < 0.25


def test_an_additional_field_does_not_change_the_draws_of_the_others():
    images = jnp.asarray(RNG.random((6, 8, 8, 3)), jnp.float32)
    key = jax.random.key(7)
    plain = Augment(shift=2, flip=True, cutout=2, noise=0.1)
    more = dataclasses.replace(plain, hue=1e-7, grayscale=1e-9)
    np.testing.assert_allclose(jax.jit(plain)(images, key), jax.jit(more)(images, key), atol=1e-5)


@pytest.mark.slow
def test_an_image_draws_the_same_in_any_batch():
    images, key = jnp.asarray(RNG.random((6, 8, 8, 3)), jnp.float32), jax.random.key(7)
    rows = jnp.asarray([5, 1, 4])
    strong = Augment(policy="trivial", erase=0.9, crop=0.3, rotate=20, flip_up_down=True, brightness=0.4)
    both = jax.jit(strong)(images, key, jnp.arange(6))
    np.testing.assert_array_equal(jax.jit(strong)(images[rows], key, rows), both[rows])


def test_pixels_are_found_from_the_data():
    images = RNG.integers(0, 256, (12, 4, 4, 3)).astype(np.uint8)
    images[0, 0, 0] = 255
    data = from_arrays(images, np.arange(12) % 2, augment=Augment(brightness=0.5))
    pixels = facts_of(data.preparation).pixels
    prepared = data.prepare(jnp.asarray(images))
    np.testing.assert_allclose(pixels.of(prepared), images / 255.0, atol=1e-6)
    np.testing.assert_allclose(pixels.undo(pixels.of(prepared)), prepared, atol=1e-5)
    floats = from_arrays(images / 255.0, np.arange(12) % 2)
    np.testing.assert_allclose(
        facts_of(floats.preparation).pixels.of(floats.prepare(jnp.asarray(images / 255.0, jnp.float32))),
        images / 255.0,
        atol=1e-6,
    )
    digits = facts_of(Digits().open().preparation).pixels
    assert (digits.low, digits.high) == (0, 16)
    signed = facts_of(from_arrays(images / 127.5 - 1, np.arange(12) % 2).preparation).pixels
    assert (signed.low, signed.high) == (pytest.approx(-1, abs=0.02), 1)


def test_an_augmentation_refuses_unsupported_inputs():
    table, y = RNG.normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(
        DataError, match=r"augment.erase needs images \[height, width, channels\]; inputs are numbers of s"
    ):
        from_arrays(table, y, augment=Augment(erase=0.5))
    with pytest.raises(DataError, match=r"augment.noise needs real numbers; inputs are token numbers of shape \(4,\)"):
        from_arrays(np.ones((20, 4), int), y, input_kind="tokens", augment=Augment(noise=0.5))
    with pytest.raises(DataError, match=r"shift=9 with padding='reflect'.*Set shift to 7 or less"):
        Digits(augment=Augment(shift=9, padding="reflect")).open()
    for wrong in (
        {"hue": 0.7},
        {"erase": 1.5},
        {"magnitude": 31.0},
        {"colout": 1.0},
        {"mixup": -1.0},
        {"severity": 0.0},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            Augment(**wrong)


def test_the_name_of_an_augmentation_has_the_fields_that_are_set():
    assert repr(Augment(shift=2)) == "Augment(shift=2, flip=False, cutout=0, noise=0.0)"
    assert repr(Augment(erase=0.5)) == "Augment(shift=0, flip=False, cutout=0, noise=0.0, erase=0.5)"
    assert not Augment(operations=3).active
    assert Augment(mixup=0.2).mixes
    assert not Augment(mixup=0.2).active
    assert MNIST(augment=Augment(policy="trivial")) != MNIST()
    assert CIFAR10().augment == Augment()
    assert Facts().pixels == Pixels()
