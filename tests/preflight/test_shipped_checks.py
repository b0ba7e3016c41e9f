"""No check is red for a shipped configuration, and none fails to be made."""

import dataclasses

import numpy as np
import pytest
from small_data import arrays, small_data

from jaxnets import config
from jaxnets.config.find import shipped
from jaxnets.preflight import check_experiment

# Too large to learn anything here within a minute.
LARGE = ("gpt2_124m", "gpt2_xl", "llama_1b", "llama_8b", "llama_70b", "mixtral_8x7b", "vit_l16", "resnet50",
         "resnet50_torchvision", "cifar10_airbench")  # fmt: skip
NAMES = sorted(set(shipped()) - set(LARGE))


def different_splits(name, folder):
    """The small data of a configuration; where both splits would be the same arrays, the test split is drawn anew, and the
    targets follow from the inputs."""
    if name == "spirals_rbf":  # radial basis functions are for points of a plane
        return config.load(name).experiment.data.open()
    data = small_data(name, folder)
    if "edges" in data.train or (data.train is not data.test and data.train["inputs"] is not data.test["inputs"]):
        return data
    if data.target_kind == "sequence":
        half = {key: array[: len(array) // 2] for key, array in data.train.items()}
        rest = {key: array[len(array) // 2 :] for key, array in data.train.items()}
        return dataclasses.replace(data, train=half, test=rest)
    data = arrays(name) if not data.tokens else data
    x, y = data.train["inputs"], data.train["targets"]
    if not data.tokens:
        score = x.reshape(len(x), -1) @ np.random.default_rng(1).normal(size=x[0].size)
        ranks = score.argsort().argsort()
        y = (ranks * len(data.class_names) // len(x)).astype(np.int32) if data.class_names else score.astype(np.float32)
    split = {"inputs": x, "targets": y}
    return dataclasses.replace(
        data,
        train={key: array[:540] for key, array in split.items()},
        test={key: array[540:] for key, array in split.items()},
    )


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_red_for_a_shipped_configuration(name, tmp_path):
    experiment = config.load(name).experiment
    report = check_experiment(experiment, dataset=different_splits(name, tmp_path), examples=8, seconds=4.0)
    assert report.passed, str(report)
    assert not [one for one in report.findings if "could not be made" in one.sentence], str(report)
