"""What a task predicts of its data."""

from typing import Any

# By the kind of the targets, the tasks that predict them.
TASKS = {
    "class": ("Classification",),
    "number": ("Regression",),
    "token": ("NextToken",),
    "sequence": ("SequenceToSequence",),
    "labels": ("MultiLabel",),
    "series": ("Forecasting",),
}


def predicted_kind(task: Any, kind: str) -> str:
    """The kind of the targets where the task predicts them; "" where it does something else with the data, as a GAN does.

    Args:
        task: a bound task.
        kind: the kind of the targets of its data.
    """
    names = {base.__name__ for base in type(getattr(task, "inner", task)).__mro__}
    return kind if names & set(TASKS.get(kind, ())) and "GRPO" not in names else ""


def why_no_loss(task: Any) -> str:
    """The reason why the parameters do not follow the gradient of `task.loss` of a batch of the data; "" where they do."""
    name = type(getattr(task, "inner", task)).__name__
    if task.players:
        return f"{name} trains several players against each other, and no single loss falls"
    # The loss of GRPO is that of samples, which the model draws in its step.
    if name in ("PerceptronRule", "GRPO"):
        return f"{name} does not follow the gradient of a loss of the data"
    return ""
