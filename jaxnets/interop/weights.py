"""Other libraries' weights, by one declarative table each: their name, our path, how the array is turned.

A table is a list of rules. A name that no rule takes and a leaf that no rule gives are errors: weights that load halfway do
not load. Tables: GPT-2 and Llama, Mixtral or Qwen as the Hugging Face library names them, Llama as llama2.c does, CIFAR
ResNets of torch, ResNets of torchvision.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnets.errors import DataError

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One name, or a family of names, and where it goes."""

    name: str
    """Theirs; `{i}`, `{j}` stand for numbers."""
    path: str
    """Ours, `params/block_{i}/query/kernel`; "" drops the array on the way in."""
    into: Callable[[np.ndarray], np.ndarray] = np.asarray
    """Theirs to ours."""
    back: Callable[[np.ndarray], np.ndarray] = np.asarray
    """Ours to theirs."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One of their arrays that is several of ours side by side, along their last dim."""

    name: str
    paths: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Several of their arrays, numbered by `{j}`, that are one of ours along its first dim; each turned over."""

    name: str
    path: str


AnyRule = Rule | Split | Stack
Table = Sequence[AnyRule]


def _transpose(array: np.ndarray) -> np.ndarray:
    return array.T


def _from_oihw(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0)


def _to_oihw(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1)


def _linear(name: str, path: str, *, bias: bool = True) -> list[Rule]:
    """torch's Linear: weight (out, in), and ours (in, out)."""
    rules = [Rule(f"{name}.weight", f"{path}/kernel", _transpose, _transpose)]
    return rules + ([Rule(f"{name}.bias", f"{path}/bias")] if bias else [])


def _layer_norm(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}.weight", f"{path}/scale"), Rule(f"{name}.bias", f"{path}/bias")]


def _conv1d(name: str, path: str) -> list[Rule]:
    """GPT-2's Conv1D: weight (in, out), as ours."""
    return [Rule(f"{name}.weight", f"{path}/kernel"), Rule(f"{name}.bias", f"{path}/bias")]


_B, _P = "h.{i}", "params/block_{i}"
GPT2: Table = [
    Rule("wte.weight", "params/embedding/embedding"),
    Rule("wpe.weight", "params/positions"),
    *_layer_norm(f"{_B}.ln_1", f"{_P}/attention_norm"),
    Split(f"{_B}.attn.c_attn.weight", (f"{_P}/query/kernel", f"{_P}/key/kernel", f"{_P}/value/kernel")),
    Split(f"{_B}.attn.c_attn.bias", (f"{_P}/query/bias", f"{_P}/key/bias", f"{_P}/value/bias")),
    *_conv1d(f"{_B}.attn.c_proj", f"{_P}/merge"),
    *_layer_norm(f"{_B}.ln_2", f"{_P}/mlp_norm"),
    *_conv1d(f"{_B}.mlp.c_fc", f"{_P}/up"),
    *_conv1d(f"{_B}.mlp.c_proj", f"{_P}/down"),
    *_layer_norm("ln_f", "params/final_norm"),
    # Masks that some files carry, and the head that is the embedding again.
    Rule(f"{_B}.attn.bias", ""), Rule(f"{_B}.attn.masked_bias", ""), Rule("lm_head.weight", ""),
]  # fmt: skip


def llama(*, tied: bool, query_biases: bool = False, query_norms: bool = False, experts: bool = False) -> Table:
    """Llama, Mistral, Mixtral (`experts`), Qwen2 (`query_biases`) and Qwen3 (`query_norms`) as the Hugging Face library
    names them."""
    block, ours = "layers.{i}", "params/block_{i}"
    rules: list[AnyRule] = [
        Rule("embed_tokens.weight", "params/embedding/embedding"),
        Rule(f"{block}.input_layernorm.weight", f"{ours}/attention_norm/scale"),
        *_linear(f"{block}.self_attn.q_proj", f"{ours}/query", bias=query_biases),
        *_linear(f"{block}.self_attn.k_proj", f"{ours}/key", bias=query_biases),
        *_linear(f"{block}.self_attn.v_proj", f"{ours}/value", bias=query_biases),
        *_linear(f"{block}.self_attn.o_proj", f"{ours}/merge", bias=False),
        Rule(f"{block}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale"),
        Rule("norm.weight", "params/final_norm/scale"),
        Rule(f"{block}.self_attn.rotary_emb.inv_freq", ""),
    ]
    if experts:
        mixture = f"{block}.block_sparse_moe"
        rules += [
            *_linear(f"{mixture}.gate", f"{ours}/mixture/router", bias=False),
            *(Stack(f"{mixture}.experts.{{j}}.{theirs}.weight", f"{ours}/mixture/{name}_kernel")
              for theirs, name in (("w1", "gate"), ("w2", "down"), ("w3", "up"))),
        ]  # fmt: skip
    else:
        for name in ("gate", "up", "down"):
            rules += _linear(f"{block}.mlp.{name}_proj", f"{ours}/{name}", bias=False)
    if query_norms:
        rules += [
            Rule(f"{block}.self_attn.q_norm.weight", f"{ours}/query_norm/scale"),
            Rule(f"{block}.self_attn.k_norm.weight", f"{ours}/key_norm/scale"),
        ]
    return [
        *rules,
        Rule("lm_head.weight", "") if tied else Rule("lm_head.weight", "params/output/kernel", _transpose, _transpose),
    ]


_L = "params/block_{i}"
LLAMA2_C: Table = [
    Rule("tok_embeddings", "params/embedding/embedding"),
    Rule("norm", "params/final_norm/scale"),
    Rule("attention_norm.{i}", f"{_L}/attention_norm/scale"),
    Rule("ffn_norm.{i}", f"{_L}/mlp_norm/scale"),
    *(Rule(f"{theirs}.{{i}}", f"{_L}/{ours}/kernel", _transpose, _transpose) for theirs, ours in (
        ("wq", "query"), ("wk", "key"), ("wv", "value"), ("wo", "merge"), ("w1", "gate"), ("w2", "down"), ("w3", "up"),
    )),
]  # fmt: skip


def _batch_norm(name: str, path: str) -> list[Rule]:
    return [
        Rule(f"{name}.weight", f"params/{path}/scale"), Rule(f"{name}.bias", f"params/{path}/bias"),
        Rule(f"{name}.running_mean", f"batch_stats/{path}/mean"), Rule(f"{name}.running_var", f"batch_stats/{path}/var"),
        Rule(f"{name}.num_batches_tracked", ""),
    ]  # fmt: skip


def cifar_resnet() -> Table:
    """The CIFAR ResNets (option A shortcuts) of torch: `layer1.0.conv1` is our `stage_0_block_0/conv_0`."""
    rules: list[AnyRule] = [
        Rule("conv1.weight", "params/stem/kernel", _from_oihw, _to_oihw),
        *_batch_norm("bn1", "stem_norm"),
    ]
    for stage in range(3):
        theirs, ours = f"layer{stage + 1}.{{i}}", f"stage_{stage}_block_{{i}}"
        for index in range(2):
            rules.append(
                Rule(f"{theirs}.conv{index + 1}.weight", f"params/{ours}/conv_{index}/kernel", _from_oihw, _to_oihw)
            )
            rules += _batch_norm(f"{theirs}.bn{index + 1}", f"{ours}/norm_{index}")
    return [*rules, *_linear("linear", "params/output")]


def torchvision_resnet(depth: int) -> Table:
    """torchvision's `resnet18` to `resnet152`: `layer1.0.conv1` is `stage_0_block_0/conv_0` of our `ResNet(depth=...)`.

    The images are RGB in [0, 1], standardised with means .485, .456, .406 and deviations .229, .224, .225.
    """
    rules: list[Rule | Split] = [
        Rule("conv1.weight", "params/stem/kernel", _from_oihw, _to_oihw), *_batch_norm("bn1", "stem_norm")
    ]  # fmt: skip
    for stage in range(4):
        theirs, ours = f"layer{stage + 1}.{{i}}", f"stage_{stage}_block_{{i}}"
        pairs = [(f"conv{k + 1}", f"bn{k + 1}", f"conv_{k}", f"norm_{k}") for k in range(3 if depth >= 50 else 2)]
        if stage or depth >= 50:  # in the first stage of the shallow ones nothing changes its size
            pairs.append(("downsample.0", "downsample.1", "shortcut", "shortcut_norm"))
        for conv, norm, our_conv, our_norm in pairs:
            rules.append(Rule(f"{theirs}.{conv}.weight", f"params/{ours}/{our_conv}/kernel", _from_oihw, _to_oihw))
            rules += _batch_norm(f"{theirs}.{norm}", f"{ours}/{our_norm}")
    return [*rules, *_linear("fc", "params/output")]


def load_weights(
    arrays: Arrays, table: Table, like: Any, *, prefixes: Sequence[str] = ("", "model.", "transformer.", "module.")
) -> Any:
    """Variables from another library's arrays.

    Args:
        arrays: theirs, by name.
        table: how names and layouts correspond.
        like: the variables wanted, as shapes (`jax.eval_shape` of the model's `init`).
        prefixes: what a name may begin with before the table applies.

    Raises:
        DataError: names left over, leaves left empty, or shapes that differ; each is named.
    """
    found: dict[str, np.ndarray] = {}
    left = []
    for name, array in arrays.items():
        placed = next((p for prefix in prefixes if name.startswith(prefix)
                       and (p := _place(name[len(prefix):], array, table)) is not None), None)  # fmt: skip
        if placed is None:
            left.append(name)
        else:
            found.update(placed)
    found = _stack(found)
    wanted = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    wrong = [f"{p}: {found[p].shape} there, {wanted[p].shape} here" for p in sorted(wanted.keys() & found.keys())
             if found[p].shape != wanted[p].shape]  # fmt: skip
    for what, which in (("names that the table does not know", left), ("leaves that nothing fills", missing),
                        ("arrays that this model has no place for", extra), ("shapes that differ", wrong)):  # fmt: skip
        if which:
            shown = ", ".join(which[:6]) + (f" and {len(which) - 6} more" if len(which) > 6 else "")
            raise DataError(
                f"the weights do not fit the model: {what}: {shown}. Use the table and the sizes they were saved with"
            )
    paths = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    leaves = [np.asarray(found[path]).astype(wanted[path].dtype) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def save_weights(variables: Any, table: Table) -> dict[str, np.ndarray]:
    """The inverse of `load_weights`: their names and layouts, for their loader.

    Raises:
        DataError: an array that the table has no name for, or one that the format needs and the model does not have.
    """
    ours = {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    theirs: dict[str, np.ndarray] = {}
    used: set[str] = set()
    without: list[str] = []
    for rule in table:
        paths = rule.paths if isinstance(rule, Split) else (rule.path,)
        before = len(theirs)
        for first in sorted(ours):
            numbers = _match(paths[0], first)
            if numbers is None or not paths[0]:
                continue
            parts = [ours[_fill(path, numbers)] for path in paths]
            used |= {_fill(path, numbers) for path in paths}
            name = _fill(rule.name, numbers)
            if isinstance(rule, Stack):
                theirs |= {_fill(name, {"j": str(j)}): array.T for j, array in enumerate(parts[0])}
                continue
            theirs[name] = np.concatenate(parts, axis=-1) if isinstance(rule, Split) else rule.back(parts[0])
        if paths[0] and len(theirs) == before:
            without.append(paths[0])
    if used != ours.keys():
        raise DataError(
            f"the table has no name for {', '.join(sorted(ours.keys() - used)[:6])}; use that of the model's family"
        )
    if without:
        raise DataError(
            f"the table's format needs {', '.join(without[:6])}, which this model does not have: it cannot say what it "
            f"computes (norms after the sums have no final one, say); use a table or a model that fit each other"
        )
    return {name: np.ascontiguousarray(array) for name, array in theirs.items()}


def _stack(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbered parts (`path#j`) of each stack, put together."""
    whole = {path: array for path, array in found.items() if "#" not in path}
    for path in sorted({path.split("#")[0] for path in found.keys() - whole.keys()}):
        numbers = sorted(int(name.split("#")[1]) for name in found if name.startswith(f"{path}#"))
        parts = [found[f"{path}#{j}"] for j in numbers]
        if numbers != list(range(len(numbers))) or len({part.shape for part in parts}) > 1:
            raise DataError(
                f"the weights do not fit the model: {path} is a stack of arrays of one shape, numbered from 0, but there are "
                f"numbers {numbers} of shapes {sorted({part.shape for part in parts})}; the file lacks some"
            )
        whole[path] = np.stack(parts)
    return whole


def _place(name: str, array: np.ndarray, table: Table) -> dict[str, np.ndarray] | None:
    """Our leaves from one of their arrays; None where no rule takes it."""
    for rule in table:
        numbers = _match(rule.name, name)
        if numbers is None:
            continue
        if isinstance(rule, Stack):
            return {f"{_fill(rule.path, numbers)}#{numbers['j']}": array.T}
        if isinstance(rule, Split):
            if not array.ndim or array.shape[-1] % len(rule.paths):
                raise DataError(
                    f"the weights do not fit the model: {name} of shape {array.shape} holds {len(rule.paths)} arrays side by "
                    f"side, which its last dim does not divide into"
                )
            parts = np.split(array, len(rule.paths), axis=-1)
            return {_fill(path, numbers): part for path, part in zip(rule.paths, parts, strict=True)}
        return {_fill(rule.path, numbers): rule.into(array)} if rule.path else {}
    return None


def _match(pattern: str, name: str) -> dict[str, str] | None:
    found = re.fullmatch(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>[0-9]+)", re.escape(pattern)), name)
    return found.groupdict() if found else None


def _fill(pattern: str, numbers: Mapping[str, str]) -> str:
    for letter, number in numbers.items():
        pattern = pattern.replace(f"{{{letter}}}", number)
    return pattern


def _name(path: Any) -> str:
    """A tree path as `params/block_0/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
