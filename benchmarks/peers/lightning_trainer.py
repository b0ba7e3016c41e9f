"""Lightning. `default`: Trainer and DataLoader as in the tutorials; `tuned`: own batches, fused AdamW, no extras."""

import logging
import warnings

import lightning
import torch
from workloads import LEARNING_RATE, WEIGHT_DECAY

from peers.torch_loop import make_model, tensors

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    def __init__(self, model, fused):
        super().__init__()
        self.model, self.fused, self.last = model, fused, None

    def training_step(self, batch, index):
        loss = torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.last = loss.detach()
        return loss

    def configure_optimizers(self):
        options = {"fused": True} if self.fused else {}
        return torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, **options)


class Batches(torch.utils.data.IterableDataset):
    def __init__(self, workload, steps):
        self.x, self.y = tensors(workload)
        self.rows = torch.from_numpy(workload.order(steps))

    def __iter__(self):
        return ((self.x[rows], self.y[rows]) for rows in self.rows)


def build(workload, variant):
    torch.manual_seed(0)
    module = Module(make_model(workload), fused=variant == "tuned")
    x, y = tensors(workload)

    def run(steps):
        if variant == "default":
            data = torch.utils.data.TensorDataset(x, y)
            loader = torch.utils.data.DataLoader(data, batch_size=workload.batch, shuffle=True, drop_last=True)
        else:
            loader = torch.utils.data.DataLoader(Batches(workload, steps), batch_size=None)
        trainer = lightning.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
        return module.last.item()

    return run
