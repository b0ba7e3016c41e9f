"""Time the gradients of `jaxnets.ops` and of `jax.lax` as in training: in a loop on the device.

    python -m benchmarks.ops

Prints one JSON object per operation: milliseconds per gradient, the best of several alternating turns, and the ratio.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnets.ops import conv_general_dilated, max_pool
from jaxnets.ops.pooling import max_pool_reference

NUMBERS = ("NHWC", "HWIO", "NHWC")


def in_a_loop(loss: Callable[..., Any]) -> Callable[..., Any]:
    """`count` gradients, each at a point that depends on the previous gradient."""

    def run(count: Any, *arrays: Any) -> Any:
        def body(_: Any, now: Any) -> Any:
            slopes = jax.grad(loss, tuple(range(len(now))))(*now)
            return tuple(a - 1e-6 * slope for a, slope in zip(now, slopes, strict=True))

        return jax.lax.fori_loop(0, count, body, arrays)

    return jax.jit(run)


def compare(name: str, ours: Callable[..., Any], plain: Callable[..., Any], *arrays: Any, turns: int) -> None:
    best = dict.fromkeys(("ours", "lax"), float("inf"))
    programs = {"ours": in_a_loop(ours), "lax": in_a_loop(plain)}
    for program in programs.values():
        jax.block_until_ready(program(1, *arrays))
    for _ in range(turns):
        for who, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(2, *arrays))
            best[who] = min(best[who], (time.perf_counter() - start) / 2 * 1e3)
    row = {"what": name, **{f"{who}_ms": round(ms, 2) for who, ms in best.items()}}
    print(json.dumps({**row, "ratio": round(best["lax"] / best["ours"], 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    key = jax.random.key(0)

    def convolution(convolve: Callable[..., Any], groups: int) -> Callable[..., Any]:
        return lambda x, kernel: jnp.square(
            convolve(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=groups)
        ).mean()

    x = jax.random.normal(key, (64, 16, 16, 96))
    for name, groups, kernel in (
        ("convolution 3x3, 96 to 96", 1, (3, 3, 96, 96)),
        ("depthwise 3x3, 96", 96, (3, 3, 1, 96)),
    ):
        pair = (convolution(f, groups) for f in (conv_general_dilated, jax.lax.conv_general_dilated))
        compare(name, *pair, x, jax.random.normal(key, kernel), turns=turns)
    for shape in ((128, 28, 28, 32), (128, 14, 14, 64)):
        pools = (lambda x, f=f: jnp.square(f(jax.nn.relu(x))).mean() for f in (max_pool, max_pool_reference))
        compare(f"max pool 2x2 of {list(shape)}", *pools, jax.random.normal(key, shape), turns=turns)


if __name__ == "__main__":
    main()
