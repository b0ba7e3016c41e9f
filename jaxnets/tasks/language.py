"""Next-token prediction. Shapes: `B` batch, `T` positions, `V` tokens of the vocabulary."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Table, Variables
from jaxnets.core.wide import wide
from jaxnets.models.mixture_of_experts import COLLECTION
from jaxnets.models.transformer import TransformerEncoder
from jaxnets.ops.tokens import IGNORED
from jaxnets.tasks.base import Task, check_kind, evenly, with_vocabulary
from jaxnets.tasks.losses import token_cross_entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken(Task):
    """Minimise the cross entropy of the next token at every position.

    A batch holds `inputs` and `targets` `[B, T]` integers and `mask` `[B]`; the model returns logits `[B, T, V]`. Targets
    that are -100 do not count (torch's `ignore_index`), for example those of a prompt. If documents are packed into windows,
    the first token of a document does not count either. A model with experts reports its routing in a separate collection (see
    `models.mixture_of_experts`).
    """

    balance: float = 0.01
    """Weight, per layer of experts, of the load-balancing loss (Fedus et al. 2022); unused without experts."""
    router_z: float = 1e-3
    """Weight, per layer of experts, of the router z-loss, which keeps router logits small (Zoph et al. 2022)."""

    headline = "loss"
    higher_is_better = False

    def __post_init__(self) -> None:
        for name in ("balance", "router_z"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"NextToken.{name} is at least 0, got {getattr(self, name)}")

    def bind(self, card: Card) -> Self:
        """Set the model's vocabulary from the data."""
        check_kind(card, "token", "NextToken needs text as tokens")
        model: Any = self.model
        if getattr(model, "bidirectional", False) or isinstance(model, TransformerEncoder):
            raise DataError(
                f"{type(model).__name__} as configured reads the tokens that it should predict; use LanguageModel, or an RNN "
                f"with bidirectional=False"
            )
        fields = {field.name for field in dataclasses.fields(model)}
        count, length = len(card.class_names), card.input_shape[0]
        if "length" in fields and model.length < length:
            raise DataError(
                f"the windows of {card.name!r} have {length} tokens, more than {type(model).__name__}.length {model.length}; "
                f"set task.model.length to {length}, or data.length lower"
            )
        model = with_vocabulary(model, card.name, vocab_size=count)
        return dataclasses.replace(self, model=_with_separator(model, card))

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Mean cross entropy in nats per token, plus the two losses of the experts, if any."""
        logits, model_state, routing = self._routed(variables, batch, key if train else None)
        measured = _measure(logits, batch, self._weights(batch))
        loss = measured["loss"]
        if routing and train:
            extra = self.balance * routing["balance"] + self.router_z * routing["router_z"]
            # A row's weight is the number of its counted tokens, since the mean divides by their total.
            more = Mean.of(extra.sum(axis=0), self._weights(batch).sum(axis=1)).sum
            measured["cross_entropy"], loss = loss, Mean(loss.sum + more, loss.weight)
        return loss, Aux({**measured, "loss": loss, **_routing_metrics(routing, batch)}, model_state)

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """Cross entropy in nats per token, token accuracy and, with experts, the routing statistics."""
        logits, _, routing = self._routed(variables, batch, None)
        return {**_measure(logits, batch, self._weights(batch)), **_routing_metrics(routing, batch)}

    def _weights(self, batch: Batch) -> Array:
        """The weight of each target, `[B, T]`: that of its row, or 0 if it is ignored or begins another document."""
        counted = batch["targets"] != IGNORED
        if (separator := getattr(self.model, "separator", None)) is not None:
            counted &= batch["inputs"] != separator
        return jnp.where(counted, batch["mask"][:, None], 0.0)

    def _routed(
        self, variables: Variables, batch: Batch, key: Array | None
    ) -> tuple[Array, Variables, dict[str, Array]]:
        """The results of `apply`, and the routing statistics `[layers, B]` by name; {} without experts."""
        logits, model_state = self.apply(variables, batch, key, sown=[COLLECTION])
        state, routing = dict(model_state), dict[str, list[Array]]()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.pop(COLLECTION, {})):
            routing.setdefault(path[-1].key, []).append(leaf.reshape(-1, leaf.shape[-1]))
        return logits, state, {name: wide(jnp.concatenate(layers)) for name, layers in routing.items()}

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """Adds the perplexity, `exp` of the cross entropy without the experts' losses."""
        loss = values.get("cross_entropy", values.get("loss", math.nan))
        return {**values, "perplexity": math.exp(loss) if loss < 700 else math.inf}

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """Check for one logit per token and position."""
        shape = jax.eval_shape(lambda v, b: self.apply(v, b, None)[0], variables, batch).shape
        if len(shape) != 3 or shape[:2] != batch["inputs"].shape or shape[2] < len(card.class_names):
            raise DataError(
                f"{type(self.model).__name__} gives outputs of shape {shape}, but {card.name!r} needs [batch, positions, "
                f"{len(card.class_names)}]: a logit for each token at each position"
            )

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """Log-probabilities of the token after each window, `[B, V]`; those of all positions would fill the memory."""
        return jax.nn.log_softmax(self.apply(variables, batch, None)[0][:, -1])

    def decide(self, outputs: np.ndarray) -> np.ndarray:
        """The most likely next token, `[B]` int32."""
        return outputs.argmax(axis=-1).astype(np.int32)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray | None:
        """Of each next token, `[B, V]` float32."""
        return np.exp(outputs)

    def exhibit_rows(self, examples: int) -> np.ndarray:
        """Eight windows."""
        return evenly(examples, 8)

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """The model's most likely continuations of some test windows."""
        symbols = card.class_names
        rows = []
        for index in evenly(len(outputs), 8):
            text = "".join(symbols[i] for i in arrays["inputs"][index][-48:])
            best = outputs[index].argsort()[::-1][:3]
            likely = ", ".join(f"{symbols[i]!r} {math.exp(outputs[index][i]):.0%}" for i in best)
            target = int(arrays["targets"][index][-1])
            rows.append((repr(text), likely, "(does not count)" if target == IGNORED else repr(symbols[target])))
        return [Table("What comes next (test)", ("text", "predicted", "true"), tuple(rows))]


def _routing_metrics(routing: Mapping[str, Array], batch: Batch) -> dict[str, Mean]:
    """The routing statistics, averaged over layers and examples."""
    return {name: Mean.of(values.mean(axis=0), batch["mask"]) for name, values in routing.items()}


def _with_separator(model: Any, card: Card) -> Any:
    """The model with the separator of packed documents; raises `DataError` for a model that would attend across it."""
    if card.separator is None:
        return model
    if "separator" not in {field.name for field in dataclasses.fields(model)}:
        raise DataError(
            f"the windows of {card.name!r} pack documents, and {type(model).__name__} would read across their ends; use "
            f"LanguageModel or a model with a field `separator`, or documents='apart', which gives windows of one document"
        )
    if model.separator not in (None, card.separator):
        raise DataError(
            f"{type(model).__name__}.separator is {model.separator}, and documents of {card.name!r} end with token "
            f"{card.separator}; leave separator out to take it from the data"
        )
    return model.clone(separator=card.separator)


def _measure(logits: Array, batch: Batch, weights: Array) -> dict[str, Mean]:
    weights = weights.reshape(-1)
    hit = (jnp.argmax(logits, axis=-1) == batch["targets"]).astype(jnp.float32)
    losses = token_cross_entropy(logits, batch["targets"])
    return {"loss": Mean.of(losses.reshape(-1), weights), "accuracy": Mean.of(hit.reshape(-1), weights)}
