"""PyTorch, the usual loop. `eager`: AdamW's default; `fused`: the fused AdamW; `compile`: torch.compile around the step."""

import torch
from torch import nn
from workloads import LEARNING_RATE, WEIGHT_DECAY


def make_model(workload):
    if workload.kind == "mlp":
        sizes = (*workload.input_shape, *workload.widths)
        layers = [m for a, b in zip(sizes[:-1], sizes[1:], strict=True) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
    a, b = workload.widths
    size, channels = workload.input_shape[0] // 4, workload.input_shape[-1]
    return nn.Sequential(
        nn.Conv2d(channels, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(size * size * b, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def tensors(workload):
    x, y = workload.data()
    x, y = torch.from_numpy(x), torch.from_numpy(y).long()
    if workload.kind == "cnn":
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return x, y


def build(workload, variant):
    torch.manual_seed(0)
    x, y = tensors(workload)
    model = make_model(workload)
    if workload.kind == "cnn":
        model = model.to(memory_format=torch.channels_last)
    options = {"fused": True} if variant in ("fused", "compile") else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, **options)

    def loss_of(inputs, labels):
        return nn.functional.cross_entropy(model(inputs), labels)

    if variant == "compile":
        loss_of = torch.compile(loss_of)

    def run(steps):
        for rows in torch.from_numpy(workload.order(steps)):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(x[rows], y[rows])
            loss.backward()
            optimizer.step()
        return loss.item()

    return run
