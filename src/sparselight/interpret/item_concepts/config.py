"""How concepts of items are found and tested. Owns ItemConceptsConfig; refuses nothing beyond its bounds."""

from typing import Literal

from pydantic import Field

from sparselight.config import Config


class ItemConceptsConfig(Config):
    """Instances, candidate concepts and the test."""

    relate_to: Literal["recommended", "last"] = "recommended"
    """The item that an instance is about: the one recommended first (RecSAE, second and third version), or the last of the history (first version)."""
    protocol: Literal["held_out", "recsae"] = "held_out"
    """`held_out`: found on the users that the SAE was trained on, tested on others. `recsae`: both on the tested users, five of a latent's ten strongest
    instances each, filled up with the former where there are fewer; then instances can stand on both sides, and the record says so."""
    instances_per_user: int = Field(40, ge=1)
    """Points of a history at which the model is asked, evenly spaced, the last one always; models that read the user have one."""
    high_level: int = Field(5, ge=1, le=10)
    """Level (global decile of positive activations, 1 to 10) from which an instance counts as an instance of the latent."""
    n_top: int = Field(50, ge=1)
    """Strongest instances of a latent that its tested ones are drawn from; 10 with protocol = "recsae"."""
    n_positive: int = Field(20, ge=1)
    """Tested instances of a latent at most; 5 with protocol = "recsae"."""
    n_negative: int = Field(20, ge=1)
    """Tested instances on which it is silent; 5 with protocol = "recsae"."""
    min_positive: int = Field(5, ge=1)
    """A latent with fewer tested instances has no confidence."""
    min_items: int = Field(3, ge=1)
    """Items that a label or a title's word needs to be a candidate."""
    max_items_frac: float = Field(0.6, gt=0, le=1)
    """A candidate that more of the items carry says nothing."""
    n_terms: int = Field(3, ge=1)
    """Words of a concept by TF-IDF."""
    n_items: int = Field(15, ge=1)
    """Items of a concept that is a list of items."""
    raw_dimensions: bool = True
    """Whether the dimensions of the vector themselves are tested too."""
    seed: int = 0
    """Of the draws, the untrained SAE and the shuffle."""

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Strongest instances, tested ones, silent ones, least tested ones."""
        return (10, 5, 5, 1) if self.protocol == "recsae" else (self.n_top, self.n_positive, self.n_negative, self.min_positive)
