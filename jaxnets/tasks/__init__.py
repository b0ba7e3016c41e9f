"""Tasks: the loss and the metrics of training. A new objective is a new task; the training loop stays the same."""

from typing import TYPE_CHECKING

from jaxnets.core.lazy import lazy

if TYPE_CHECKING:
    from jaxnets.tasks.adaline import Adaline as Adaline
    from jaxnets.tasks.adversarial import Adversarial as Adversarial
    from jaxnets.tasks.base import Task as Task
    from jaxnets.tasks.byol import BYOL as BYOL
    from jaxnets.tasks.classification import Classification as Classification
    from jaxnets.tasks.contrastive import SimCLR as SimCLR
    from jaxnets.tasks.contrastive import VICReg as VICReg
    from jaxnets.tasks.curriculum import Curriculum as Curriculum
    from jaxnets.tasks.diffusion import Diffusion as Diffusion
    from jaxnets.tasks.distillation import Distillation as Distillation
    from jaxnets.tasks.forecasting import Forecasting as Forecasting
    from jaxnets.tasks.given import Given as Given
    from jaxnets.tasks.graphs import GraphClassification as GraphClassification
    from jaxnets.tasks.graphs import NodeClassification as NodeClassification
    from jaxnets.tasks.group_policy import GRPO as GRPO
    from jaxnets.tasks.imbalanced import AdjustedLogits as AdjustedLogits
    from jaxnets.tasks.imbalanced import Focal as Focal
    from jaxnets.tasks.imbalanced import Imbalanced as Imbalanced
    from jaxnets.tasks.imbalanced import class_prior as class_prior
    from jaxnets.tasks.language import NextToken as NextToken
    from jaxnets.tasks.margin import MarginClassification as MarginClassification
    from jaxnets.tasks.masked import JEPA as JEPA
    from jaxnets.tasks.masked import MaskedAutoencoder as MaskedAutoencoder
    from jaxnets.tasks.metrics import AUROC as AUROC
    from jaxnets.tasks.metrics import F1 as F1
    from jaxnets.tasks.metrics import AveragePrecision as AveragePrecision
    from jaxnets.tasks.metrics import CalibrationError as CalibrationError
    from jaxnets.tasks.metrics import Metric as Metric
    from jaxnets.tasks.multi_task import Head as Head
    from jaxnets.tasks.multi_task import MultiTask as MultiTask
    from jaxnets.tasks.multilabel import MultiLabel as MultiLabel
    from jaxnets.tasks.next_frame import NextFrame as NextFrame
    from jaxnets.tasks.own import Own as Own
    from jaxnets.tasks.perceptron_rule import PerceptronRule as PerceptronRule
    from jaxnets.tasks.preference import DPO as DPO
    from jaxnets.tasks.reconstruction import Reconstruction as Reconstruction
    from jaxnets.tasks.regression import Regression as Regression
    from jaxnets.tasks.semi_supervised import FixMatch as FixMatch
    from jaxnets.tasks.sequence_to_sequence import SequenceToSequence as SequenceToSequence
    from jaxnets.tasks.supervised import Supervised as Supervised
    from jaxnets.tasks.variational import Variational as Variational
    from jaxnets.tasks.vector_quantization import VectorQuantization as VectorQuantization
    from jaxnets.tasks.views import Views as Views

# The file of each name; see `jaxnets.core.lazy`.
FILES = {
    "class_prior": "imbalanced",
    "Head": "multi_task",
    "MultiTask": "multi_task",
    "Curriculum": "curriculum",
    "FixMatch": "semi_supervised",
    "GRPO": "group_policy",
    "DPO": "preference",
    "JEPA": "masked",
    "MaskedAutoencoder": "masked",
    "Views": "views",
    "BYOL": "byol",
    "VICReg": "contrastive",
    "SimCLR": "contrastive",
    "Distillation": "distillation",
    "Imbalanced": "imbalanced",
    "Focal": "imbalanced",
    "AdjustedLogits": "imbalanced",
    "AUROC": "metrics",
    "AveragePrecision": "metrics",
    "CalibrationError": "metrics",
    "F1": "metrics",
    "Metric": "metrics",
    "Own": "own",
    "Adaline": "adaline",
    "Adversarial": "adversarial",
    "Task": "base",
    "Classification": "classification",
    "Diffusion": "diffusion",
    "Forecasting": "forecasting",
    "Given": "given",
    "GraphClassification": "graphs",
    "MarginClassification": "margin",
    "NodeClassification": "graphs",
    "NextToken": "language",
    "MultiLabel": "multilabel",
    "NextFrame": "next_frame",
    "PerceptronRule": "perceptron_rule",
    "Reconstruction": "reconstruction",
    "Regression": "regression",
    "SequenceToSequence": "sequence_to_sequence",
    "Supervised": "supervised",
    "Variational": "variational",
    "VectorQuantization": "vector_quantization",
}


__getattr__, __dir__ = lazy(__name__, FILES)

__all__ = [
    "AUROC",
    "BYOL",
    "DPO",
    "F1",
    "GRPO",
    "JEPA",
    "Adaline",
    "AdjustedLogits",
    "Adversarial",
    "AveragePrecision",
    "CalibrationError",
    "Classification",
    "Curriculum",
    "Diffusion",
    "Distillation",
    "FixMatch",
    "Focal",
    "Forecasting",
    "Given",
    "GraphClassification",
    "Head",
    "Imbalanced",
    "MarginClassification",
    "MaskedAutoencoder",
    "Metric",
    "MultiLabel",
    "MultiTask",
    "NextFrame",
    "NextToken",
    "NodeClassification",
    "Own",
    "PerceptronRule",
    "Reconstruction",
    "Regression",
    "SequenceToSequence",
    "SimCLR",
    "Supervised",
    "Task",
    "VICReg",
    "Variational",
    "VectorQuantization",
    "Views",
    "class_prior",
]
