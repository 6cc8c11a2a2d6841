"""What a steering study is of: its settings, the latent, the goal and the text, checked before any work.

Refuses: strengths that do not rise above 0, latents that the SAE does not have, goals on text without prompts or on subjects that do not write, several
seeds without any chance in the text, text that directions are taken on and effects are measured on as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from sparselight.config import Config
from sparselight.errors import ConfigError
from sparselight.intervene.dose_response import Wants
from sparselight.intervene.edit import Dictionary
from sparselight.intervene.generate import can_generate
from sparselight.intervene.generated import Annotate
from sparselight.intervene.goals import Goal
from sparselight.protocols import Example, Subject

Baseline = Literal["difference of means", "random direction", "random latent"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


class SteerConfig(Config):
    """A steering study."""

    operation: Literal["add", "clamp", "scale", "ablate"] = "add"
    """What is done to the latent; add and clamp in units of its own activations, scale by 1 + strength, ablate by 1 - strength."""
    wants: Literal["more", "less", "auto"] = "auto"
    """Whether the goal's value is to rise or to fall; auto: fall for ablate, rise for the others."""
    strengths: list[float] = Field(default_factory=list, max_length=12)
    """Rising, above 0, at least two. Left empty: 0.1, 0.25, 0.5, 1, 2; for ablate 0.25, 0.5, 0.75, 1."""
    quantile: float = Field(0.99, gt=0, le=1)
    """Of the latent's activations where it fires: strength 1."""
    baselines: list[Baseline] = Field(default_factory=lambda: list(BASELINES))
    """What the latent is compared with."""
    n_random: int = Field(3, ge=1, le=20)
    """Random directions, and random latents."""
    prompt_baseline: str = ""
    """Text put before everything, as a baseline without any edit; left empty, there is none."""
    max_doublings: int = Field(6, ge=0, le=12)
    """How often a baseline's largest strength may be doubled to reach the latent's side effect."""
    sample_tokens: int = Field(40_000, ge=100)
    """Text on which references, firing rates and directions are taken, tokens."""
    general_tokens: int = Field(2_000, ge=50)
    """General text on which side effects and goals on predictions are measured, tokens."""
    n_prompts: int = Field(10, ge=1)
    """Beginnings of held-out examples, where no prompt is given."""
    n_tokens: int = Field(40, ge=1)
    """Length of generated text, tokens."""
    n_seeds: int = Field(2, ge=1)
    """Texts a prompt and dose."""
    temperature: float = Field(0.7, ge=0)
    """Of generated text."""
    n_bootstrap: int = Field(1000, ge=500)
    """Resamples of groups and prompts; with fewer, no p could fall to 0.05 / 12, which the most strengths ask for."""
    seed: int = Field(0, ge=0)
    """Of everything random."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.doses) < 2 or self.doses[0] <= 0 or any(low >= high for low, high in zip(self.doses, self.doses[1:], strict=False)):
            raise ValueError(f"strengths = {self.strengths} are not two or more that rise from above 0")
        if self.operation == "ablate" and self.doses[-1] > 1:
            raise ValueError("strengths above 1 are more than all of a latent, which operation = 'ablate' takes away")
        if self.n_seeds > 1 and self.temperature == 0:
            raise ValueError("temperature = 0 makes all texts of a prompt alike, so n_seeds has to be 1")
        return self

    @property
    def doses(self) -> list[float]:
        """The strengths, or those of the operation."""
        return self.strengths or ([0.25, 0.5, 0.75, 1.0] if self.operation == "ablate" else [0.1, 0.25, 0.5, 1.0, 2.0])

    @property
    def direction(self) -> Wants:
        return ("less" if self.operation == "ablate" else "more") if self.wants == "auto" else self.wants


@dataclass(frozen=True)
class Setting:
    """What is studied, where, and on which text."""

    subject: Subject
    coder: Dictionary
    site: str
    source: str
    latent: int
    goal: Goal | None
    """None: the tokens that follow where the latent fires in text."""
    fit: Sequence[Example]
    """Text on which references and directions are taken."""
    general: Sequence[Example]
    """Other text, for side effects and goals on predictions."""
    prompts: Sequence[str | Example] = ()
    """Examples where images belong to them."""
    title: str = ""
    titles: Mapping[int, str] = field(default_factory=dict)
    """Explanations of the SAE's other latents."""
    annotate: Annotate | None = None


def check_setting(setting: Setting) -> None:
    """Refuse what cannot be studied, before any work."""
    goal, on = setting.goal, "predictions" if setting.goal is None else setting.goal.on
    asked = f"study {setting.source}/{setting.latent}{f' for {goal.title}' if goal else ''}"
    if not 0 <= setting.latent < setting.coder.n_latents:
        raise ConfigError(asked=asked, why=f"the SAE has no latent {setting.latent}", instead=f"give a latent from 0 to {setting.coder.n_latents - 1}")
    if on == "text" and not setting.prompts:
        raise ConfigError(asked=asked, why="the goal is on generated text and there is no prompt", instead="give prompts, or a goal on predictions "
                          "such as 'tokens: key'")
    if on == "text" and not can_generate(setting.subject):
        raise ConfigError(asked=asked, why=f"{setting.subject.name} does not write text from left to right",
                          instead="give a goal on predictions, such as 'tokens: key'")
    shared = {example.id for example in setting.fit} & {example.id for example in setting.general}
    if shared:
        raise ConfigError(asked=asked, why=f"{len(shared)} examples stand on both sides, for example {min(shared)!r}",
                          instead="measure on other text than directions are taken on")
