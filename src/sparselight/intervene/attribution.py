"""Attribution: how much each latent adds to a metric of the subject's predictions, by gradients.

Owns: gradient times activation and integrated gradients, for a metric of the user's. One backward pass a batch and step gives all latents at once; what
the SAE does not explain gets a share of its own, so that integrated gradients add up. Refuses: metrics that give no single number, and predictions that
do not depend on the site.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError, SubjectError
from sparselight.intervene.edit import Dictionary
from sparselight.intervene.effects import prediction_chunks
from sparselight.intervene.goals import TokenGoal
from sparselight.protocols import Batch, Codes, Example, Subject

ENTRY_VALUES = 1 << 24  # values held at once where every entry of the codes meets its decoder row

Metric = Callable[[Float[Tensor, "token vocabulary"], Batch], Tensor]
"""Log probabilities at the counted tokens, and the batch, to one number: a sum over what is to be explained."""


@dataclass(frozen=True)
class Attribution:
    """What the latents add to a metric, a token of the text."""

    latents: Float[np.ndarray, " latent"]
    error: float
    """What the SAE leaves of the activations."""
    metric: float
    """Of the text as it is."""
    baseline: float
    """Of the text with nothing but the decoder's bias at the site. Integrated gradients: metric - baseline = sum of latents + error, up to the steps."""
    n_tokens: int


def goal_metric(goal: TokenGoal) -> Metric:
    """Sum over tokens of log p(any of the goal's tokens)."""
    ids = list(goal.token_ids)
    return lambda log_probs, _batch: log_probs[:, ids].logsumexp(-1).sum()


def attribute(subject: Subject, coder: Dictionary, site: str, examples: Sequence[Example], metric: Metric, steps: int = 1) -> Attribution:
    """Attribute a metric to the latents of an SAE.

    Latent f: sum_t z_tf <g_t, W_dec[f]> / tokens. With one step g is the gradient at the activations themselves (gradient x activation; attribution
    patching: Nanda 2023), which is exact for what depends on the site linearly. With more it is the mean gradient at the middles of as many equal parts
    of the straight way from the decoder's bias to the activations (integrated gradients: Sundararajan et al. 2017; for latents: Marks et al. 2024).

    Raises:
        CorpusError: when the examples hold no tokens.
        ConfigError: when the metric gives something else than one number.
        SubjectError: when predictions do not depend on the site.
    """
    if steps < 1:
        raise ConfigError(asked=f"integrate gradients over {steps} steps", why="there is nothing to take a mean of", instead="give steps of 1 or more")
    latents, base = np.zeros(coder.n_latents), _bias(coder)
    error = value = baseline = 0.0
    n_tokens = 0
    for chunk in prediction_chunks(subject, examples):
        batch = subject.prepare(chunk)
        x = subject.capture(batch, [site])[site].float()
        start = base.to(x)
        points = [start + (x - start) * ((step + 0.5) / steps) for step in range(steps)] if steps > 1 else [x]
        gradient = torch.stack([_gradient(subject, batch, site, point, metric) for point in points]).mean(0)
        codes, x_hat = _coded(coder, x)
        latents += _by_latent(codes, gradient, coder.W_dec.detach())
        error += float(((x - x_hat.to(x)) * gradient).sum())
        value += float(metric(subject.predict(batch).log_softmax(-1), batch))
        baseline += float(metric(subject.predict(batch, {site: lambda x, start=start: start.expand_as(x)}).log_softmax(-1), batch))  # type: ignore[misc]
        n_tokens += batch.n_tokens
    if not n_tokens:
        raise CorpusError(asked="attribute a metric to latents", why="the examples hold no tokens", instead="give examples with text")
    return Attribution(latents / n_tokens, error / n_tokens, value / n_tokens, baseline / n_tokens, n_tokens)


def _gradient(subject: Subject, batch: Batch, site: str, point: Float[Tensor, "token d_in"], metric: Metric) -> Float[Tensor, "token d_in"]:
    leaf = point.detach().requires_grad_(True)

    def replace(_x: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # the pass runs without; leaving `predict` brings the old mode back
        return leaf

    logits = subject.predict(batch, {site: replace})
    if logits.grad_fn is None:
        raise SubjectError(asked=f"attribute predictions to activations at {site}", why="they do not depend on them",
                           instead="choose a site before the output layer")
    with torch.enable_grad():
        value = metric(logits.log_softmax(-1), batch)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.grad_fn is None:
            raise ConfigError(asked="attribute a metric to latents", why="it gave no single number that depends on the predictions",
                              instead="give back a sum over log probabilities, such as log_probs[:, ids].sum()")
        return torch.autograd.grad(value.sum(), leaf)[0]


def _bias(coder: Dictionary) -> Float[Tensor, " d_in"]:
    """What the decoder makes of no latents."""
    device = coder.W_dec.device
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    none = Codes(torch.zeros(0, device=device), nothing, torch.zeros(2, dtype=torch.long, device=device), coder.n_latents)
    return coder.decode(none)[0].detach()


@torch.no_grad()
def _coded(coder: Dictionary, x: Float[Tensor, "token d_in"]) -> tuple[Codes, Float[Tensor, "token d_in"]]:
    codes = coder.encode(x.to(coder.W_dec.device))
    return codes, coder.decode(codes)


def _by_latent(codes: Codes, gradient: Float[Tensor, "token d_in"], rows: Float[Tensor, "latent d_in"]) -> Float[np.ndarray, " latent"]:
    token, result = codes.tokens(), np.zeros(codes.n_latents)
    gradient, size = gradient.to(codes.values), max(1, ENTRY_VALUES // gradient.shape[1])
    for start in range(0, len(codes.values), size):
        part = slice(start, start + size)
        added = codes.values[part] * (gradient[token[part]] * rows[codes.latents[part]].to(gradient)).sum(1)
        result += np.bincount(codes.latents[part].cpu().numpy(), weights=added.double().cpu().numpy(), minlength=codes.n_latents)
    return result
