"""Settings of the disentanglement metrics; those of the mask's training are SAEBench's by default."""

from typing import Self

from pydantic import Field, model_validator

from sparselight.config import Config

ENTITY = "{entity}"


class RavelConfig(Config):
    """Which attributes are told apart, how the subject's word on them is read, and how a mask is trained."""

    attributes: tuple[str, ...] = ()
    """Kinds of annotation that are the attributes of a unit, for the probe readout; by default all that are frequent enough."""
    max_values: int = Field(20, ge=2)
    """Values of an attribute that are told apart: the most frequent ones."""
    least_units: int = Field(20, ge=2)
    """Units with a value that each side needs, for the probe readout."""
    n_units: int = Field(5000, ge=100)
    """Most tokens of each side that are used, for the probe readout; drawn evenly."""
    probe_l2: float = Field(1e-4, gt=0)
    """Penalty of the probes that are the readout: mean loss + probe_l2 / 2 ||w||^2."""
    templates: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """For the language model readout: attribute -> prompts with {entity} that end where the attribute's value follows. Empty: no such readout."""
    entity: str = "entity"
    """Kind of the span that marks the entity in an example whose labels are its attributes, for the language model readout."""
    max_entities: int = Field(500, ge=2)
    """Entities of each side that are kept: those with the most prompts that the subject completes correctly."""
    n_generated_tokens: int = Field(6, ge=1)
    """Length of the continuation in which the attribute's value is looked for."""
    n_pairs: int = Field(2000, ge=10)
    """Pairs of units for cause, and as many for isolation, on which a mask is trained, each attribute. SAEBench takes up to 5000."""
    n_test_pairs: int = Field(1000, ge=10)
    """The same on the held-out side, for the values."""
    batch_pairs: int = Field(8, ge=1)
    """Pairs a step; values change with it, so keep it the same for all coders."""
    epochs: int = Field(2, ge=1)
    """Passes over the pairs."""
    lr: float = Field(1e-3, gt=0)
    """Of Adam, on the mask's logits."""
    final_temperature: float = Field(1e-4, gt=0, le=1)
    """Of the mask at the last step; it falls from 1 by the same factor at every step."""
    seed: int = 0
    """Of the draws of units and pairs."""

    @model_validator(mode="after")
    def _check_templates(self) -> Self:
        if len(self.templates) == 1:
            raise ValueError("templates names one attribute, and disentanglement needs two")
        for attribute, prompts in self.templates.items():
            for prompt in prompts:
                if prompt.count(ENTITY) != 1 or prompt.endswith(ENTITY):
                    raise ValueError(f"templates.{attribute} holds {prompt!r}, which does not contain {ENTITY} once with words after it")
            if not prompts:
                raise ValueError(f"templates.{attribute} is empty")
        return self
