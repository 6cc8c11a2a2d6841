"""SAELens: its SAETrainer.step on its training SAEs, and the inference classes that it saves them as."""

from typing import Any

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from ..task import BANDWIDTH, SPARSITY_WEIGHT, Task
from .base import Weights


def training_sae(task: Task, variant: str) -> Any:
    size: dict[str, Any] = {"d_in": task.d_in, "d_sae": task.n_latents, "device": task.device}
    if task.kind == "topk":
        # The sparse option does not go with the rescaling that is otherwise the default.
        sparse = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False} if variant == "coo" else {}
        return TopKTrainingSAE(TopKTrainingSAEConfig(k=task.k, **sparse, **size))
    if task.kind == "batch_topk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=float(task.k), **size))
    if task.kind == "matryoshka":
        return MatryoshkaBatchTopKTrainingSAE(MatryoshkaBatchTopKTrainingSAEConfig(k=float(task.k), matryoshka_widths=list(task.prefix_ends), **size))
    if task.kind == "relu":
        return StandardTrainingSAE(StandardTrainingSAEConfig(l1_coefficient=SPARSITY_WEIGHT, **size))
    return JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(l0_coefficient=SPARSITY_WEIGHT, jumprelu_bandwidth=BANDWIDTH, **size))


class Shared:
    """What training and inference have in common."""

    sae: Any

    def weights(self) -> Weights:
        return Weights(self.sae.W_enc.T, self.sae.b_enc, self.sae.W_dec, self.sae.b_dec, subtracts_b_dec=True)

    def set_threshold(self, value: float) -> None:
        self.sae.threshold.data.fill_(value)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.sae.encode(x)
        return codes.to_dense() if codes.is_sparse else codes, self.sae.decode(codes)


class Trainer(Shared):
    def __init__(self, task: Task, variant: str):
        self.sae = training_sae(task, variant)
        config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=task.batch, lr=task.lr, lr_end=task.lr / 10, device=task.device,
                                  autocast=task.autocast, logger=LoggingConfig(log_to_wandb=False))
        self.trainer = SAETrainer(config, self.sae, iter(()))

    def run(self, x: Tensor) -> None:
        self.trainer.step(x)
        self.trainer.n_training_steps += 1  # as its fit() does after each step


class Inference(Shared):
    def __init__(self, task: Task, _variant: str):
        size: dict[str, Any] = {"d_in": task.d_in, "d_sae": task.n_latents, "device": task.device}
        self.sae = TopKSAE(TopKSAEConfig(k=task.k, **size)) if task.kind == "topk" else JumpReLUSAE(JumpReLUSAEConfig(**size))
        self.autocast = torch.autocast(task.device, torch.bfloat16, enabled=task.autocast)

    @torch.no_grad()
    def run(self, x: Tensor) -> None:
        with self.autocast:
            self.sae.decode(self.sae.encode(x))
