"""Tables of weight names: GPT-2, Llama, Mixtral and Qwen (Hugging Face), Llama (llama2.c), CIFAR ResNets (torch), ResNets
(torchvision). See `weight_rules.py` for what a table is."""

import numpy as np

from jaxnets.interop.weight_rules import AnyRule, Rule, Same, Split, Stack, Table
from jaxnets.interop.weight_rules import load_weights as load_weights
from jaxnets.interop.weight_rules import save_weights as save_weights


def _transpose(array: np.ndarray) -> np.ndarray:
    return array.T


def _from_oihw(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0)


def _to_oihw(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1)


def _linear(name: str, path: str, *, bias: bool = True) -> list[Rule]:
    """torch's Linear: its weight is (out, in), our kernel is (in, out)."""
    rules = [Rule(f"{name}.weight", f"{path}/kernel", _transpose, _transpose)]
    return rules + ([Rule(f"{name}.bias", f"{path}/bias")] if bias else [])


def _layer_norm(name: str, path: str) -> list[Rule]:
    return [Rule(f"{name}.weight", f"{path}/scale"), Rule(f"{name}.bias", f"{path}/bias")]


def _conv1d(name: str, path: str) -> list[Rule]:
    """GPT-2's Conv1D: its weight is (in, out), like our kernel."""
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
    Same("lm_head.weight", "params/embedding/embedding"),
]


def llama(*, tied: bool, query_biases: bool = False, query_norms: bool = False, experts: bool = False) -> Table:
    """The Hugging Face names of Llama, Mistral, Mixtral (`experts`), Qwen2 (`query_biases`) and Qwen3 (`query_norms`)."""
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
        Same("lm_head.weight", "params/embedding/embedding")
        if tied
        else Rule("lm_head.weight", "params/output/kernel", _transpose, _transpose),
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
        if stage or depth >= 50:  # shallow networks have no shortcut layer in the first stage
            pairs.append(("downsample.0", "downsample.1", "shortcut", "shortcut_norm"))
        for conv, norm, our_conv, our_norm in pairs:
            rules.append(Rule(f"{theirs}.{conv}.weight", f"params/{ours}/{our_conv}/kernel", _from_oihw, _to_oihw))
            rules += _batch_norm(f"{theirs}.{norm}", f"{ours}/{our_norm}")
    return [*rules, *_linear("fc", "params/output")]
