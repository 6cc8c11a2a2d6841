"""What reading a foreign SAE found and took for granted, kept with the SAE.

Formats differ in what they leave unsaid: whether b_dec is subtracted first, where a threshold lies, how inputs are scaled. A reader states
every such convention here in words, so that a person can check it; what a format does not state at all is listed as such.
"""

from typing import Any

from pydantic import Field

from sparselight.records import Part

CONVENTIONS = ("b_dec", "selection", "scaling", "input", "decoder", "dtype", "tokens")
"""What every reader states: b_dec in the encoder, selection of latents, folded scaling, what the input is, decoder norms, precision, token policy."""


class ImportNotes(Part):
    """Where an SAE was read from, as what, and by which conventions."""

    source: str
    format: str
    """A row of sparselight.sae.formats.FORMATS."""
    guessed_from: str | None = None
    """What the format was recognized by; null where it was named."""
    conventions: dict[str, str]
    """One sentence for each of CONVENTIONS."""
    facts: dict[str, Any] = Field(default_factory=dict)
    """What the files say of the SAE's origin: model, site, target_site, layer, dataset, context_tokens, prepend_bos, k, l0."""
    cautions: list[str] = Field(default_factory=list)
    """What a reader should know or check, in sentences."""

    @property
    def read_as(self) -> str:
        return f"{self.format} (named)" if self.guessed_from is None else f"{self.format} (recognized by {self.guessed_from})"

    @property
    def is_transcoder(self) -> bool:
        return "target_site" in self.facts or bool(self.facts.get("transcoder"))

    def lines(self) -> list[str]:
        """All of it for a person, one line each."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return [f"read as     {self.read_as}", *(f"{name:<11} {text}" for name, text in self.conventions.items()), *([f"origin      {facts}"] if facts else []),
                *(f"caution     {caution}" for caution in self.cautions)]
