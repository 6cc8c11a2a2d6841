"""The measurements of a study and the curves that they make, every value with its bootstrap draws.

General text is resampled by its groups, generated text by its prompts; all methods share the same draws, so that differences between them are paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from sparselight.evaluate.statistics import Resamples
from sparselight.intervene.baselines import Method
from sparselight.intervene.dose_response import Curve
from sparselight.intervene.generated import Generated
from sparselight.intervene.side_effects import General, per_token
from sparselight.intervene.study_setting import Setting, SteerConfig


@dataclass
class Measured:
    """One method, measured at its doses; dose 0 is no edit."""

    method: Method
    strengths: list[float]
    general: General
    texts: list[list[Generated]] = field(default_factory=list)
    """By dose, prompts outermost; empty where nothing was generated."""
    values: Float[np.ndarray, "dose text"] | None = None
    """The goal's, where it is on text."""
    quality: list[dict[str, Float[np.ndarray, " text"]]] = field(default_factory=list)


@dataclass(frozen=True)
class Draws:
    """The resamples behind all intervals of a study."""

    groups: Resamples
    """Of general text."""
    prompts: Resamples | None
    """None where nothing was generated."""

    def per_prompt(self, values: Float[np.ndarray, "dose text"]) -> Float[np.ndarray, "resample dose"]:
        """Means over prompts; texts of one prompt (several seeds) are averaged first."""
        assert self.prompts is not None
        by_prompt = values.reshape(len(values), self.prompts.n_groups, -1).mean(2)
        return self.prompts.totals(by_prompt.T) / self.prompts.n_groups


def make_draws(setting: Setting, latent: Measured, config: SteerConfig) -> Draws:
    return Draws(Resamples.draw(int((latent.general.n_tokens > 0).sum()), config.n_bootstrap, config.seed),
                 Resamples.draw(len(setting.prompts), config.n_bootstrap, config.seed + 1) if latent.texts else None)


def per_general_token(draws: Draws, latent: General, sums: Float[np.ndarray, "dose group"],
                      counts: Float[np.ndarray, " group"]) -> Float[np.ndarray, "resample dose"]:
    """Means a token of general text; groups without any token of the latent's take no part."""
    some = latent.n_tokens > 0
    return per_token(draws.groups.totals(sums[:, some].T), draws.groups.totals(counts[some])[:, None])


def make_curves(measured: Sequence[Measured], draws: Draws) -> list[Curve]:
    """Effect and divergence of every method over its doses."""
    latent, curves = measured[0].general, []
    for one in measured:
        general = one.general
        kl = per_general_token(draws, latent, general.kl, general.n_tokens)
        effect = per_general_token(draws, latent, general.goal, general.n_tokens) if one.values is None else draws.per_prompt(one.values)
        curves.append(Curve(np.array(one.strengths), effect, kl))
    return curves
