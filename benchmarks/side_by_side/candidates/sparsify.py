"""sparsify: the body of its Trainer.fit() for one hook point and one process, which cannot be called without a language model.

The order of calls is fit()'s: decoder norm, forward with the batch's variance, dead-latent bookkeeping, backward, gradient along decoder
rows removed, optimizer, schedule. It has no gradient clipping. fit() sets the matmul precision to "high", so that is done here too, unless
the task asks for a lower one.
"""

import contextlib
import io

import torch
from schedulefree import ScheduleFreeWrapper
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from ..task import Task
from .base import Weights

with contextlib.redirect_stdout(io.StringIO()):  # it prints whether Triton is there
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD


class Shared:
    """What training and inference have in common."""

    def __init__(self, task: Task, _variant: str):
        if task.precision == "highest":
            torch.set_float32_matmul_precision("high")
        self.coder = SparseCoder(task.d_in, SparseCoderConfig(num_latents=task.n_latents, k=task.k), device=task.device, dtype=torch.float32)

    def weights(self) -> Weights:
        return Weights(self.coder.encoder.weight, self.coder.encoder.bias, self.coder.W_dec, self.coder.b_dec, subtracts_b_dec=True)

    def set_threshold(self, value: float) -> None:
        raise NotImplementedError("sparsify has no thresholds")

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = self.coder.encode(x)
        codes = torch.zeros(len(x), self.coder.num_latents, device=x.device).scatter_(1, top.top_indices, top.top_acts.float())
        return codes, self.coder.decode(top.top_acts, top.top_indices)


class Trainer(Shared):
    def __init__(self, task: Task, variant: str):
        super().__init__(task, variant)
        n_latents = task.n_latents
        if variant == "adam":
            self.optimizer = torch.optim.Adam([{"params": self.coder.parameters(), "lr": task.lr}])
            self.schedule = get_linear_schedule_with_warmup(self.optimizer, 0, 10**7)
        else:
            rate = 5e-3 / (n_latents / 2**14) ** 0.5  # its own default for signed updates
            self.optimizer = ScheduleFreeWrapper(SignSGD([{"params": self.coder.parameters(), "lr": rate}]), momentum=0.95)
            self.optimizer.train()
            self.schedule = None
        self.did_fire = torch.zeros(n_latents, dtype=torch.bool, device=task.device)
        self.n_tokens_since_fired = torch.zeros(n_latents, dtype=torch.long, device=task.device)

    def run(self, x: Tensor) -> None:
        coder = self.coder
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())  # its auxk_alpha is 0 by default
        self.did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # it logs this every step, which waits for a GPU
        (out.fvu + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule is not None:
            self.schedule.step()
        self.n_tokens_since_fired += len(x)
        self.n_tokens_since_fired[self.did_fire] = 0
        self.did_fire.zero_()


class Inference(Shared):
    def __init__(self, task: Task, variant: str):
        super().__init__(task, variant)
        self.autocast = torch.autocast(task.device, torch.bfloat16, enabled=task.autocast)

    @torch.no_grad()
    def run(self, x: Tensor) -> None:
        with self.autocast:
            top = self.coder.encode(x)
            self.coder.decode(top.top_acts, top.top_indices)
