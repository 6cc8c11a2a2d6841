"""overcomplete: its train_sae() on one batch, with Adam and a criterion, as its README trains.

Its models subtract no decoder bias and have none. Its package imports torchvision for vision models alone; where that is not installed an
empty stand-in takes its place, as does the function of matplotlib that it names and new releases lack.
"""

import importlib.util
import sys
from typing import Any
from unittest.mock import MagicMock

import matplotlib
import matplotlib.cm
import torch
from torch import Tensor

from ..task import BANDWIDTH, SPARSITY_WEIGHT, Task
from .base import Weights

if importlib.util.find_spec("torchvision") is None:
    sys.modules["torchvision"] = MagicMock()
if not hasattr(matplotlib.cm, "get_cmap"):
    matplotlib.cm.get_cmap = lambda name=None, _n=None: matplotlib.colormaps[name]

from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, TopKSAE, heaviside, mse_l1, train_sae


def make_model(task: Task) -> Any:
    size = (task.d_in, task.n_latents)
    if task.kind == "topk":
        return TopKSAE(*size, top_k=task.k, device=task.device)
    if task.kind == "batch_topk":
        return BatchTopKSAE(*size, top_k=task.k * task.batch, device=task.device)
    if task.kind == "relu":
        return SAE(*size, device=task.device)
    return JumpSAE(*size, bandwidth=BANDWIDTH, device=task.device)


class Shared:
    """What training and inference have in common."""

    def __init__(self, task: Task, _variant: str):
        self.task, self.model = task, make_model(task)

    def weights(self) -> Weights:
        encoder = self.model.encoder.final_block[0]
        return Weights(encoder.weight, encoder.bias, self.model.dictionary._weights, None, subtracts_b_dec=False)

    def set_threshold(self, value: float) -> None:
        self.model.thresholds.data.fill_(torch.tensor(value).log())

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.task.kind == "batch_topk":
            self.model.top_k = self.task.k * len(x)
        _, codes = self.model.encode(x)
        if self.task.kind == "batch_topk":
            self.model.top_k, self.model.running_threshold = self.task.k * self.task.batch, None
        return codes, self.model.decode(codes)


class Trainer(Shared):
    def __init__(self, task: Task, variant: str):
        super().__init__(task, variant)
        self.model.train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=task.lr)
        self.autocast = torch.autocast(task.device, torch.bfloat16, enabled=task.autocast)

    def criterion(self, x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        if self.task.kind == "relu":
            return mse_l1(x, x_hat, pre_codes, codes, dictionary, penalty=SPARSITY_WEIGHT)
        mse = (x - x_hat).square().mean()
        if self.task.kind != "jump_relu":
            return mse
        model = self.model
        return mse + SPARSITY_WEIGHT * heaviside(pre_codes, model.thresholds.exp(), model.kernel_fn, model.bandwidth).sum(1).mean()

    def run(self, x: Tensor) -> None:
        with self.autocast:
            train_sae(self.model, [x], self.criterion, self.optimizer, nb_epochs=1, monitoring=0, device=self.task.device)


class Inference(Shared):
    def __init__(self, task: Task, variant: str):
        super().__init__(task, variant)
        self.autocast = torch.autocast(task.device, torch.bfloat16, enabled=task.autocast)
        self.model.train()

    @torch.no_grad()
    def run(self, x: Tensor) -> None:
        if self.model.training:
            self.model.eval()  # which fuses the dictionary: after the weights were given
        with self.autocast:
            self.model.decode(self.model.encode(x)[1])
