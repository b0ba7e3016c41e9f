"""Exchanges of a step by arithmetic: bytes that a device sends along each axis, worked out by hand."""

import dataclasses

import pytest

from jaxnets.accelerators.exchange import Work, exchanges, waiting
from jaxnets.parallel.chips import chip_named

CHIP = chip_named("v5p")
LINK = CHIP.link
# Three layers of 1,000 numbers each, 500 numbers outside of them; 8 sequences of 64 positions, 16 numbers each, in bfloat16.
WORK = Work(
    outside=500,
    stacked=3000,
    experts=0,
    rows=8,
    length=64,
    layers=3,
    width=16,
    places=0,
    heads=(4, 2, 4),
    by_heads=False,
    alone=True,
    rounds=1,
    bytes=2,
)


def sent(work=WORK, chip=CHIP, micro=1, again=False, zero=3, **sizes):
    """Bytes by axis."""
    found = exchanges(work, chip, sizes, micro, again=again, zero=zero)
    return {axis: pytest.approx(seconds * LINK) for axis, seconds in found.items()}


@pytest.mark.smoke
def test_gradients_are_summed_once_whatever_the_micro_batches():
    once = {"data": 2 * 3500 * 2 * 7 / 8}
    assert sent(data=8) == once
    summed = {"data": 2 * 3500 * 4 * 7 / 8}  # sums over micro-batches are in float32
    assert sent(data=8, micro=4) == summed
    # Inside of the loop over blocks where devices do not treat their own rows alone.
    together = dataclasses.replace(WORK, alone=False)
    assert sent(together, data=8, micro=4) == {"data": 2 * (500 * 4 + 4 * 3000 * 2) * 7 / 8}
    assert sent(sequence=2, micro=4)["data"] == 2 * (500 * 4 + 4 * 3000 * 2) * 1 / 2
    assert sent(dataclasses.replace(together, outside=3500, stacked=0), data=8, micro=4) == summed


def test_what_fsdp_splits_is_gathered_twice_and_scattered_for_each_micro_batch():
    gathered = 3 * 3500 * 2 * 7 / 8
    assert sent(fsdp=8) == {"fsdp": gathered}
    assert sent(fsdp=8, micro=4) == {"fsdp": 4 * gathered}
    # With both, the sum over `data` is that of a quarter of the gradients.
    assert sent(data=2, fsdp=4) == {"data": 2 * 3500 / 4 * 2 * 1 / 2, "fsdp": 3 * 3500 * 2 * 3 / 4}


@pytest.mark.smoke
def test_with_zero_1_sums_are_scattered_and_parameters_gathered_once_a_step():
    assert sent(fsdp=8, zero=1) == {"fsdp": 3500 * (2 + 4) * 7 / 8}
    assert sent(fsdp=8, zero=1, micro=4) == {"fsdp": 3500 * (4 + 4) * 7 / 8}
    # With `data` as well, compilers sum over both axes in one exchange.
    assert sent(data=2, fsdp=4, zero=1) == {"data": 2 * 3500 * 2 * 7 / 8, "fsdp": 3500 * 4 * 3 / 4}


def test_tensor_sums_activations_twice_a_layer_each_way():
    # Two passes, or three where blocks are computed again; an all-reduce sends twice its bytes.
    one = 2 * 3 * 2 * (8 * 64 * 16 * 2) * 3 / 4
    assert sent(tensor=4) == {"tensor": 2 * one}
    assert sent(tensor=4, again=True) == {"tensor": 3 * one}
    assert sent(data=2, tensor=4)["tensor"] == one  # half the rows each


def test_tokens_go_to_their_experts_and_come_back():
    work = dataclasses.replace(WORK, stacked=600, experts=2400, places=160)
    found = sent(work, expert=4, data=2)
    # Rows are split over both axes; each device sends what all experts compute of its row, to and from, forward and back.
    assert found["expert"] == 4 * 3 * (1 * 160 * 16 * 2) * 3 / 4
    # Experts are summed over `data`, everything else over both.
    assert found["data"] == 2 * 2400 / 4 * 2 * 1 / 2 + 2 * (500 + 600) * 2 * 7 / 8


def test_keys_and_values_travel_around_the_ring_and_heads_are_exchanged():
    pair = 2 * 2 * 4  # keys and values of two heads of four numbers
    ring = 3 * 8 * 64 * pair * (2 * 2 + 4)  # all positions pass by in each pass; their gradients in float32 in one
    assert sent(sequence=4) == {"data": 2 * 3500 * 2 * 3 / 4, "sequence": ring}
    heads = dataclasses.replace(WORK, by_heads=True)
    assert sent(heads, sequence=2)["sequence"] == 2 * 3 * (8 * 32 * 2 * (4 + 2) * 4 * 2) * 1 / 2


def test_a_pipeline_hands_on_activations_and_waits():
    # Two stages: each has four rows, so eight parts of one row in nine turns.
    assert waiting(WORK, {"pipeline": 2}, 1) == pytest.approx(1 / 9)
    assert waiting(WORK, {"data": 8}, 1) == 0
    row = 64 * 16 * 2
    found = sent(pipeline=2)
    assert found["pipeline"] == 2 * 9 * row + 4 * 8 * row * 1 / 2
    assert found["data"] == 2 * 500 * 2 * 1 / 2  # of what is in no stage
    # What `fsdp` splits is gathered in every turn, here five of four parts of two stages; what is in no stage once.
    assert sent(pipeline=2, fsdp=4)["fsdp"] == 3 * (3000 / 2 * 3 + 500) * 2 * 3 / 4


def test_groups_of_gpus_are_joined_by_the_network():
    chip = chip_named("h100")
    near, far = (exchanges(WORK, chip, {"data": size}, 1, again=False)["data"] for size in (8, 16))
    assert near == pytest.approx(2 * 3500 * 2 * 7 / 8 / chip.link)
    assert far == pytest.approx(2 * 3500 * 2 * 15 / 16 / chip.network)
