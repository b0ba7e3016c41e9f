"""Group relative policy optimisation: a language model learns from rewards of its own samples (Shao et al. 2024, GRPO).

Shapes: `B` prompts, `G` samples of each, `P` tokens of a prompt, `N` tokens of a completion, `V` vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxnets.core.errors import DataError
from jaxnets.core.types import Aux, Batch, Card, Exhibit, Mean, Variables
from jaxnets.models.generation import Sampling, generate
from jaxnets.steps.recipe import TAKEN, Metrics, Recipe, Step
from jaxnets.steps.state import TrainState
from jaxnets.steps.step import make_train_step
from jaxnets.tasks.language import NextToken
from jaxnets.tasks.losses import token_cross_entropy
from jaxnets.tasks.players import all_or_none
from jaxnets.tasks.preference import REFERENCE, apart, with_reference

Reward = Callable[[Array, Array, Array], Array]


def share_right(prompt: Array, completion: Array, answer: Array) -> Array:
    """The share of the answer's tokens `[N]` that the completion `[N]` has at the same position."""
    del prompt
    return (completion == answer).astype(jnp.float32).mean()


def group_advantages(rewards: Array) -> Array:
    """Each sample's reward minus the mean of its group, divided by the group's deviation; `[B, G]` (section 4.1.2).

    A group whose rewards are all equal has advantages of 0.
    """
    away = rewards - rewards.mean(axis=1, keepdims=True)
    return away / (jnp.sqrt(jnp.square(away).mean(axis=1, keepdims=True)) + 1e-4)


def clipped_objective(log_ratio: Array, advantage: Array, *, clip: float = 0.2) -> Array:
    """`min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)` with `ratio = exp(log_ratio)`, elementwise (Schulman et al. 2017)."""
    ratio = jnp.exp(log_ratio)
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPO(NextToken):
    """Sample completions of each prompt inside the step, compute their rewards, and raise the probability of those above their
    group's mean.

    A batch holds prompts `inputs` `[B, P]` of equal length, and `targets` `[B, N]`, the answers that the reward compares with.
    Every step draws `group` completions of `N` tokens for each prompt and makes `turns` updates with them. Evaluation
    completes greedily.
    """

    reward: Reward | None = None
    """`(prompt [P], completion [N], answer [N]) -> number` for one sample, in JAX; None: the share of right tokens."""
    group: int = 8
    """Samples of each prompt, `G`, at least 2."""
    turns: int = 1
    """Updates with the samples of a step."""
    clip: float = 0.2
    """Clip range of the ratio of a token's probability after and before these updates."""
    kl: float = 0.0
    """Weight of the divergence from the model before the first step, at least 0; 0 keeps no copy of that model."""
    temperature: float = 1.0
    """Temperature of the samples, above 0."""

    headline = "reward"
    higher_is_better = True
    more_is_better: ClassVar[tuple[str, ...]] = ("exact",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2 or self.turns < 1:
            raise ValueError(f"group is at least 2 and turns at least 1, got {self.group} and {self.turns}")
        if not (0 < self.clip < 1 and 0 <= self.kl < math.inf and 0 < self.temperature < math.inf):
            raise ValueError(
                f"clip is in (0, 1), kl at least 0 and temperature above 0; got {self.clip}, {self.kl}, {self.temperature}"
            )

    def init(self, key: Array, batch: Batch) -> Variables:
        """The model's variables and, with `kl`, a copy of its parameters."""
        variables = super().init(key, batch)
        return {**variables, REFERENCE: jax.tree.map(jnp.copy, variables["params"])} if self.kl else variables

    def rewards(self, batch: Batch, completions: Array) -> Array:
        """Rewards `[B]` float32 of completions `[B, N]`."""
        given = jax.vmap(self.reward or share_right)(batch["inputs"], completions, batch["targets"])
        return given.astype(jnp.float32)

    def rollout(self, variables: Variables, batch: Batch, key: Array) -> tuple[Batch, Array]:
        """Samples of the policy as a batch for `loss`, `B G` rows, and their rewards `[B, G]`."""
        own, reference = apart(variables)
        count, G = batch["inputs"].shape[0], self.group
        prompts, answers = (jnp.repeat(batch[name], G, axis=0) for name in ("inputs", "targets"))
        made = generate(
            self.model, own, prompts, answers.shape[1], key=key, sampling=Sampling(temperature=self.temperature)
        )
        rewards = self.rewards({"inputs": prompts, "targets": answers}, made).reshape(count, G)
        tokens = jnp.concatenate([prompts.astype(made.dtype), made], axis=1)
        known = {
            "tokens": tokens,
            "old": self.log_probabilities(own, tokens, made.shape[1], None)[0],
            "advantage": group_advantages(rewards).reshape(-1),
        }
        if self.kl:
            known["reference"] = self.log_probabilities(reference, tokens, made.shape[1], None)[0]
        # Under `targets`, which are not cast if the layers compute in bfloat16.
        sampled = {"inputs": tokens, "targets": jax.lax.stop_gradient(known), "mask": jnp.repeat(batch["mask"], G)}
        if "index" in batch:
            sampled["index"] = (batch["index"][:, None] * G + jnp.arange(G)[None, :]).reshape(-1)
        return sampled, rewards

    def log_probabilities(
        self, own: Variables, tokens: Array, count: int, key: Array | None
    ) -> tuple[Array, Variables]:
        """`log p` of the last `count` tokens of each row at the temperature, `[rows, count]`, and the model's collections."""
        logits, state = self.apply(own, {"inputs": tokens[:, :-1]}, key)
        return -token_cross_entropy(logits[:, -count:] / self.temperature, tokens[:, -count:]), state

    def loss(self, variables: Variables, batch: Batch, key: Array, train: bool) -> tuple[Mean, Aux]:
        """Minus the clipped objective, averaged over the tokens of each sample, plus `kl` times the divergence (equation 3).

        The batch is one of `rollout`. The divergence is estimated by `r - log r - 1` with `r` the ratio of the reference's
        probability to the policy's (equation 4).
        """
        own, known = apart(variables)[0], batch["targets"]
        now, state = self.log_probabilities(own, known["tokens"], known["old"].shape[1], key if train else None)
        each = -clipped_objective(now - known["old"], known["advantage"][:, None], clip=self.clip)
        metrics = {}
        if self.kl:
            behind = known["reference"] - now
            divergence = jnp.exp(behind) - behind - 1
            each, metrics["kl"] = each + self.kl * divergence, Mean.of(divergence, batch["mask"])
            state = {**state, REFERENCE: variables[REFERENCE]}
        loss = Mean.of(each, batch["mask"])
        return loss, Aux({"loss": loss, **metrics}, state)

    def make_step(self, recipe: Recipe) -> Step:
        """Sample, then update `turns` times; the metrics hold the mean `reward` of the samples."""
        update = make_train_step(self.loss, recipe)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            variables, given = recipe.precision.cast(state.variables, batch)
            sampled, rewards = self.rollout(variables, given, recipe.key("rollout", state.step))
            now, turns = state, list[Metrics]()
            for _ in range(self.turns):
                now, metrics = update(dataclasses.replace(now, step=state.step), sampled)
                turns.append(metrics)
            new, taken = all_or_none(state, now, turns)
            # The means of all updates together; the first leaf that was not finite is that of any of them.
            together = jax.tree.map(lambda *parts: sum(parts), *turns)
            if "bad_leaf" in together:
                worst = jnp.stack([metrics["bad_leaf"].sum for metrics in turns]).max()
                refused = (new.guard["skipped"] > state.guard["skipped"]).astype(jnp.float32)
                together |= {"bad_leaf": Mean(worst, jnp.ones(())), "skipped": Mean(refused, jnp.ones(()))}
            measured = {"reward": Mean.of(rewards, batch["mask"]), TAKEN: taken}
            return dataclasses.replace(new, step=state.step + 1), {**together, **measured}

        return with_reference(step) if self.kl else step

    def metrics(self, variables: Variables, batch: Batch) -> dict[str, Mean]:
        """The reward of greedy completions, and `exact`, the share that equal the answer."""
        own, count = apart(variables)[0], batch["targets"].shape[1]
        made = generate(
            self.model, own, batch["inputs"], count, key=jax.random.key(0), sampling=Sampling(temperature=0.0)
        )
        exact = (made == batch["targets"]).all(axis=1).astype(jnp.float32)
        return {"reward": Mean.of(self.rewards(batch, made), batch["mask"]), "exact": Mean.of(exact, batch["mask"])}

    def outputs(self, variables: Variables, batch: Batch) -> Array:
        """See `NextToken`."""
        return super().outputs(apart(variables)[0], batch)

    def derive(self, values: Mapping[str, float]) -> dict[str, float]:
        """The metrics as they are."""
        return dict(values)

    def check_outputs(self, variables: Variables, batch: Batch, card: Card) -> None:
        """See `NextToken`; also that prompt and answer fit the model."""
        super().check_outputs(apart(variables)[0], batch, card)
        if len(batch["targets"].shape) != 2:
            raise DataError(
                f"GRPO needs answers as tokens [examples, positions], but the targets of {card.name!r} have shape "
                f"{batch['targets'].shape}"
            )
        length = getattr(self.model, "length", None)
        whole = batch["inputs"].shape[1] + batch["targets"].shape[1]
        if length is not None and whole > length and getattr(self.model, "positions", "") == "learned":
            raise DataError(f"prompts and answers have {whole} tokens, the model takes {length}; set task.model.length")

    def exhibits(self, outputs: np.ndarray, arrays: Mapping[str, np.ndarray], card: Card) -> Sequence[Exhibit]:
        """None: `metrics` measures the quality of completions."""
        del outputs, arrays, card
        return ()
