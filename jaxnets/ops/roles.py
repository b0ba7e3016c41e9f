"""The role of a parameter, from its name: the rule for weight decay and for penalties on weights.

A parameter is a *weight*, and decays, if by its name it multiplies the inputs: kernels of any layer, embeddings, recurrent
kernels, the taps of a convolution, maps between capsules, attention vectors, stored patterns. It does not decay if it is added
(biases, positions, class tokens), scales single numbers (a norm's scale, a peephole), is a rate, a width or a temperature,
or is a point that distances are measured to (centres, codes). nanoGPT and timm use the same rule, except for positions, where
they differ; here positions follow timm.

The number of dims does not matter: scanned layers and stacked experts have one more, and a bias of attention heads has two. So
scanned and unrolled layers decay in the same way.
"""

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxnets.core.errors import UsageError

# Words in names (`up_kernel`, `w_hh`, `wq`), without trailing digits.
# fmt: off
WEIGHTS = frozenset((
    "w", "wq", "wk", "wv", "wo", "wi", "wh", "wx", "wz", "wr", "wf", "wg", "wc", "wqkv", "weight", "weights",
    "kernel", "kernels", "matrix", "matrices", "embedding", "embeddings", "embed", "table", "proj", "projection",
    "recurrent", "taps", "transformations", "attention", "patterns",
))
OTHERS = frozenset((
    "b", "bias", "biases", "beta", "gamma", "scale", "scales", "gain", "gains", "offset", "shift", "slope", "norm",
    "pos", "position", "positions", "places", "cls", "relative", "peephole",
    "decay", "log", "rate", "rates", "width", "widths", "temperature", "tau", "epsilon", "eps", "alpha", "step", "threshold",
    "centre", "centres", "center", "centers", "code", "codes", "book", "codebook", "prototype", "prototypes",
))
# fmt: on


def role(path: Any) -> str:
    """Role of the parameter at a tree path: "weight" (decays), "other" or "unknown" (do not decay)."""
    name = name_of(path)
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if words[:1] == ["lora"]:  # both matrices of a low-rank adapter
        return "weight"
    # "token" is a vector put before a sequence; "token_embedding" is a table of them.
    if any(word in OTHERS for word in words) or (words and words[-1] in ("token", "tokens")):
        return "other"
    return "weight" if any(word in WEIGHTS for word in words) else "unknown"


def name_of(path: Any) -> str:
    """The parameter's own name: the last dict key of its path; keys that a box or tuple adds are skipped."""
    names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
    return names[-1] if names else ""


def weights(params: Any, patterns: Sequence[str] = ()) -> Any:
    """Which leaves of a tree of parameters decay, as a tree of bools.

    Args:
        params: parameters, or anything else with their structure.
        patterns: paths of parameters that decay, such as `*/mixing` (`*` matches any text); empty: all weights.

    Raises:
        UsageError: a pattern matches no parameter.
    """
    if not patterns:
        return jax.tree_util.tree_map_with_path(lambda path, _: role(path) == "weight", params)
    named = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in named):
            raise UsageError(
                f"weight_decay_on {pattern!r} matches no parameter; they are {', '.join(sorted(named)[:8])}, ..."
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(
            fnmatch.fnmatchcase(jax.tree_util.keystr(path, simple=True, separator="/"), pattern) for pattern in patterns
        ),
        params,
    )


def without_role(params: Any) -> list[str]:
    """Paths of parameters with two or more dims whose role is unknown."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree.leaves_with_path(params)
        if leaf.ndim > 1 and role(path) == "unknown"
    ]
