"""Optimizer state in the memory of the host: same results, where it is, resume, what is refused."""

import jax
import numpy as np
import optax
import pytest
from optax import contrib
from test_axes import SMALL, text, trained

from jaxnets.checkpoints.digest import leaf_paths, read_digests, start_digests
from jaxnets.config import Experiment
from jaxnets.core.errors import UsageError
from jaxnets.data import Digits
from jaxnets.models import LanguageModel
from jaxnets.optim import AdamW, LocalSGD
from jaxnets.parallel import MeshShape
from jaxnets.parallel.partition import HOST, SMALLEST_CUT
from jaxnets.runs.train import train
from jaxnets.tasks import NextToken

HERE, THERE = (MeshShape(data=2, fsdp=4, offload=kind) for kind in ("none", "optimizer"))


def test_the_optimizer_state_is_on_the_host_and_the_result_is_the_same():
    given = {"optimizer": AdamW(learning_rate=1e-2), "steps": 2}
    here, there = (trained(mesh, {"layers": 1}, **given) for mesh in (HERE, THERE))
    for a, b in zip(jax.tree.leaves(here.state.params), jax.tree.leaves(there.state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    large = {path: leaf for path, leaf in leaf_paths(there.state.opt_state).items() if leaf.size >= SMALLEST_CUT}
    assert len(large) > 10
    assert {leaf.sharding.memory_kind for leaf in large.values()} == {HOST}
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(there.state.params)} == {"device"}
    # The same bits have the same digest wherever they are.
    assert read_digests(start_digests(here.state)) == read_digests(start_digests(there.state))


@pytest.mark.slow
def test_a_run_resumes_with_and_without_offload(tmp_path):
    def run(mesh, directory, **options):
        experiment = Experiment(
            data=Digits(),  # `dataset` takes its place
            task=NextToken(model=LanguageModel(**SMALL)),
            optimizer=AdamW(learning_rate=1e-3),
            steps=6,
            batch_size=16,
            save_every=3,
            mesh=mesh,
        )
        return train(experiment, dataset=text(), run_dir=tmp_path / directory, progress="none", **options)

    whole = run(HERE, "whole")
    run(THERE, "cut", stop_at=3)
    again = run(THERE, "cut")
    assert int(again.state.step) == 6
    assert read_digests(start_digests(again.state)) == read_digests(start_digests(whole.state))
    run(HERE, "other", stop_at=3)
    elsewhere = run(THERE, "other")
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(elsewhere.state.opt_state)} == {HOST, "device"}
    assert read_digests(start_digests(elsewhere.state)) == read_digests(start_digests(whole.state))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": contrib.schedule_free_adamw(1e-3)}, "evaluates weights that are in its state"),
        ({"optimizer": optax.sgd(0.1), "local": LocalSGD(replicas=2, every=2)}, "local.replicas is 2"),
    ],
)
def test_features_that_read_the_optimizer_state_are_refused_with_offload(options, message):
    with pytest.raises(UsageError, match=message):
        trained(THERE, **options)
