"""Names of accelerators: shapes, counts, mistakes."""

import math

import pytest

from jaxnets.accelerators.topology import parse
from jaxnets.core.errors import UsageError
from jaxnets.parallel.chips import CHIPS


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("v5e:2x4", (2, 4)),
        ("v5e:8", (2, 4)),
        ("v5e:4", (2, 2)),
        ("v5e:16", (4, 4)),
        ("v5e:256", (16, 16)),
        ("v5e:1", (1, 1)),
        ("v6e:32", (4, 8)),
        ("v5p:4", (2, 2, 1)),
        ("v5p:8", (2, 2, 2)),
        ("v5p:64", (4, 4, 4)),
        ("v5p:128", (4, 4, 8)),
        ("v5p:2x2x4", (2, 2, 4)),
        ("h100:8", (8,)),
        ("h100:12", (12,)),
    ],
)
def test_a_shape_or_a_number(text, shape):
    topology = parse(text)
    assert topology.shape == shape
    assert topology.count == math.prod(shape)
    assert parse(topology.name) == topology


def test_hosts_hold_four_chips_or_eight_gpus():
    assert parse("v5e:2x4").hosts == 2
    assert parse("v5p:4x4x4").hosts == 16
    assert parse("h100:12").hosts == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v5x:4", "Did you mean"),
        ("v5e", "such as v5e:2x4"),
        ("v5e:", "such as v5e:2x4"),
        ("v5e:2x", "such as v5e:2x4"),
        ("v5e:0", "such as v5e:2x4"),
        ("v5e:-4", "such as v5e:2x4"),
        ("v5e:2x2x2", "has 2 dims"),
        ("v5p:4x4", "has 3 dims"),
        ("v5e:3x4", "the first two sizes are even"),
        ("v5e:12", "write its shape"),
        ("v5e:512", "256 chips"),
        ("h100:2x4", "write h100:8"),
    ],
)
def test_mistakes_name_the_value_and_the_remedy(text, said):
    with pytest.raises(UsageError, match=said):
        parse(text)


def test_every_chip_has_peaks_and_a_source():
    for name, chip in CHIPS.items():
        assert chip.name == name
        assert chip.source
        assert 1e13 < chip.flops < 1e16
        assert 1e10 < chip.bandwidth < 1e13
        # A device never sends faster than it reads its memory, and the network is never faster than the links.
        assert chip.network <= chip.link <= chip.bandwidth
