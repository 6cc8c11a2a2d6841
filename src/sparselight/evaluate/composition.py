"""Composition rate: how much of a dictionary's decoder a much smaller sparse dictionary explains (a MetaSAE). Lower is more atomic.

Matryoshka SAEs (arXiv 2503.17547, appendix D.1) and OrtSAE (arXiv 2509.22033); the budget is that of SAEBench's meta_structure: BatchTopK of
ceil(m/4) latents, k = 4, 1500 steps of 1024 rows drawn with replacement, Adam at a constant 5e-4, no dead latents' loss. It is trained
by our own engine: rows of unit norm as they are, decoder rows of unit norm, W_enc = W_dec^T to begin with. Values depend on the budget, so they
compare only at equal settings. The work is bounded: a MetaSAE is trained on at most max_latents rows, and controls get fewer of them. Refuses:
dictionaries too small for k latents.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from scipy.special import stdtrit
from torch import Tensor

from sparselight.config import Config
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.weight_directions import Directions
from sparselight.kernels import kernels
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue
from sparselight.sae import Sae, initialize
from sparselight.train.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.state import TrainState
from sparselight.train.step import take_step

ROWS_AT_ONCE = 4096
SAME = 1e-6  # rows of unit norm that differ less are one row, rounded


class CompositionConfig(Config):
    """The MetaSAE and its training; the defaults are SAEBench's."""

    width_frac: float = Field(0.25, gt=0, le=1)
    """Its latents, as a share of the dictionary's."""
    k: int = Field(4, gt=0)
    """Active latents a decoder row, on average."""
    n_steps: int = Field(1500, gt=0)
    """Training steps."""
    batch_rows: int = Field(1024, gt=0)
    """Decoder rows of a step, drawn with replacement."""
    lr: float = Field(5e-4, gt=0)
    """Learning rate of Adam, constant."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One MetaSAE each; the value is their mean."""
    control_seeds: int = Field(1, gt=0)
    """How many of these seeds controls get: with 1, their value has no interval."""
    max_latents: int = Field(4096, gt=0)
    """Latents of a dictionary that the MetaSAE is trained on; of a larger one, a random sample of so many, which a note says."""

    @field_validator("seeds")
    @classmethod
    def _are_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 0 or len(set(value)) < len(value):
            raise ValueError("are not one or more different numbers from 0 up")
        return value

    def training(self, n_rows: int, seed: int) -> TrainConfig:
        """The same as settings of a training."""
        return TrainConfig(
            architecture="batch_topk", n_latents=max(self.k, int(np.ceil(self.width_frac * n_rows))), k=float(self.k), n_tokens=self.n_steps * self.batch_rows,
            batch_tokens=self.batch_rows, lr=self.lr, normalize="none", seed=seed, objective=ObjectiveConfig(mse="sum", aux=0.0),
            optimizer=OptimizerConfig(eps=1e-8, clip_norm=0.0), schedule=ScheduleConfig(warmup_frac=0.0, decay="none"))


def measure_composition(
    case: Case, contenders: Mapping[str, Contender], config: CompositionConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """The composition rate of every coder that has decoder directions: all latents, and under the setting `alive` the living ones.

    Raises:
        SaeError: when weights are not finite.
    """
    seeds = {name: config.seeds[:config.control_seeds] if contender.is_control else config.seeds for name, contender in contenders.items()}
    total, done, before = 2 * config.n_steps * sum(map(len, seeds.values())), 0, 0

    def step(note: str) -> None:
        nonlocal done
        done += 1
        progress(done, total, note)

    for name, contender in contenders.items():
        whole = Directions.of(case, name, contender)
        rates: list[float] = []
        for variant, directions in (("", whole), ("alive", whole if isinstance(whole, str) else whole.living())):
            cell = Cell(name, "composition_rate", setting=variant)
            if isinstance(directions, str):
                findings.lacks(cell, directions)
                continue
            rows = _sampled(directions.decoder(), config)
            if len(directions) <= config.k:
                findings.lacks(cell, f"{len(directions)} latents are too few for a MetaSAE of k = {config.k} (composition.k)")
            elif float((rows - rows[0]).abs().max()) < SAME:
                findings.lacks(cell, "its decoder rows are all the same")
            else:
                if variant == "" or directions is not whole:
                    rates = [composition_rate(rows, config, seed, partial(step, name)) for seed in seeds[name]]
                if len(rows) < len(directions):
                    findings.notes.append(f"composition of {name}{f' ({variant})' if variant else ''}: a random sample of {len(rows):,} of its "
                                          f"{len(directions):,} latents (composition.max_latents); it compares only with samples of that size")
                findings.add(cell, summary(rates, seeds[name]))
        done = before = before + 2 * len(seeds[name]) * config.n_steps
        progress(done, total, name)


def _sampled(rows: Float[Tensor, "latent d"], config: CompositionConfig) -> Float[Tensor, "kept d"]:
    if len(rows) <= config.max_latents:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seeds[0]))
    return rows[order[:config.max_latents].sort().values.to(rows.device)]


def composition_rate(
    rows: Float[Tensor, "latent d"], config: CompositionConfig = CompositionConfig(), seed: int = 0,  # noqa: B008 (frozen)
    step: Callable[[], None] = lambda: None,
) -> float:
    """1 - sum ||w - w_hat||^2 / sum ||w - mean(w)||^2 over all rows w, w_hat by a MetaSAE trained on them.

    Args:
        rows: decoder rows of unit norm, more than config.k and not all the same.
        step: called after each training step.
    """
    meta, mean = train_meta_sae(rows, config, seed, step), rows.mean(0, dtype=torch.float64)
    parts = rows.split(ROWS_AT_ONCE)
    error = sum(float((part - meta.reconstruct(part)).double().square().sum()) for part in parts)
    return 1 - error / sum(float((part - mean).square().sum()) for part in parts)


def train_meta_sae(rows: Float[Tensor, "latent d"], config: CompositionConfig, seed: int, step: Callable[[], None] = lambda: None) -> Sae:
    """A MetaSAE in inference form: the one threshold at which all rows together have k active latents a row, as in training."""
    settings = config.training(len(rows), seed)
    generator = torch.Generator().manual_seed(seed)
    sae = initialize(Sae(rows.shape[1], settings.n_latents or 0), rows.mean(0).cpu(), generator).to(rows.device)
    state, objective = TrainState(sae, settings), make_objective(settings, TERMS)
    for _ in range(config.n_steps):
        chosen = torch.randint(len(rows), (config.batch_rows,), generator=generator).to(rows.device)
        batch = rows[chosen]
        take_step(state, objective, settings, batch, batch)
        step()
    with torch.no_grad():
        inputs = sae.encoder_input(rows)
        cutoff = kernels(inputs).encode_batch_topk(inputs, sae.W_enc.detach(), sae.b_enc.detach(), round(config.k * len(rows)), {}).cutoff
        sae.threshold.fill_(float(np.nextafter(np.float32(cutoff), np.float32(0))))  # the last one selected must fire
    return sae


def summary(rates: list[float], seeds: tuple[int, ...]) -> MetricValue:
    """Mean over seeds of the MetaSAE; the 95 % interval is that of Student's t, of the seeds alone."""
    mean = float(np.mean(rates))
    plain = MetricValue(value=mean, n=len(rates), unit="seeds", seeds=list(seeds))
    if len(rates) < 2:
        return plain
    half = float(stdtrit(len(rates) - 1, 0.975) * np.std(rates, ddof=1) / len(rates) ** 0.5)
    return plain.model_copy(update={"low": mean - half, "high": mean + half})


FAMILY = Family("composition", "Composition rate (MetaSAE)", measure_composition, CompositionConfig, (), ("full",))
