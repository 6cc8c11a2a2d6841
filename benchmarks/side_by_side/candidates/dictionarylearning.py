"""dictionary_learning: the update() of its trainers. Its package imports nnsight for the buffer of language-model activations alone; where
that is not installed an empty stand-in takes its place.
"""

import importlib.util
import sys
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from ..task import BANDWIDTH, MATRYOSHKA_PARTS, SPARSITY_WEIGHT, Task
from .base import Weights

if importlib.util.find_spec("nnsight") is None:
    sys.modules["nnsight"] = MagicMock()

from dictionary_learning.dictionary import JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer

PAST_THE_WARM_UPS = 10_000  # of the inference threshold and of the sparsity penalty: the work of an ordinary step


def make_trainer(task: Task) -> Any:
    common: dict[str, Any] = {"steps": 10**7, "activation_dim": task.d_in, "dict_size": task.n_latents, "layer": 0, "lm_name": "none", "device": task.device,
                              "seed": task.seed, "lr": task.lr, "warmup_steps": 0}
    if task.kind == "topk":
        return TopKTrainer(k=task.k, **common)
    if task.kind == "batch_topk":
        return BatchTopKTrainer(k=task.k, **common)
    if task.kind == "matryoshka":
        return MatryoshkaBatchTopKTrainer(k=task.k, group_fractions=list(MATRYOSHKA_PARTS), **common)
    if task.kind == "relu":
        return StandardTrainer(l1_penalty=SPARSITY_WEIGHT, **common)
    return JumpReluTrainer(sparsity_penalty=SPARSITY_WEIGHT, bandwidth=BANDWIDTH, target_l0=float(task.k), **common)


class Shared:
    """What training and inference have in common."""

    ae: Any
    selects: dict[str, Any]
    """Arguments of encode that make it select as in training."""

    def weights(self) -> Weights:
        ae = self.ae
        if hasattr(ae, "encoder"):
            bias = ae.b_dec if hasattr(ae, "b_dec") else ae.bias
            return Weights(ae.encoder.weight, ae.encoder.bias, ae.decoder.weight.T, bias, subtracts_b_dec=True)
        return Weights(ae.W_enc.T, ae.b_enc, ae.W_dec, ae.b_dec, subtracts_b_dec=not isinstance(ae, JumpReluAutoEncoder))

    def set_threshold(self, value: float) -> None:
        self.ae.threshold.data.fill_(value)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.ae.encode(x, **self.selects)
        return codes, self.ae.decode(codes)


class Trainer(Shared):
    def __init__(self, task: Task, _variant: str):
        self.trainer = make_trainer(task)
        self.selects = {"use_threshold": False} if task.kind in ("batch_topk", "matryoshka") else {}
        self.step = PAST_THE_WARM_UPS
        self.autocast = torch.autocast(task.device, torch.bfloat16, enabled=task.autocast)  # around update(), as its trainSAE does

    @property
    def ae(self) -> Any:
        return self.trainer.ae

    def run(self, x: Tensor) -> None:
        with self.autocast:
            self.trainer.update(self.step, x)
        self.step += 1


class Inference(Shared):
    def __init__(self, task: Task, _variant: str):
        size = (task.d_in, task.n_latents)
        self.ae = AutoEncoderTopK(*size, task.k).to(task.device) if task.kind == "topk" else JumpReluAutoEncoder(*size, device=task.device)
        self.selects = {}
        self.autocast = torch.autocast(task.device, torch.bfloat16, enabled=task.autocast)

    @torch.no_grad()
    def run(self, x: Tensor) -> None:
        with self.autocast:
            self.ae.decode(self.ae.encode(x))
