"""The settings of a planted world. Refuses structures that need more features than there are."""

from typing import Self

from pydantic import Field, model_validator

from sparselight.config import Config


class PlantedConfig(Config):
    """Activations made of known features, with the structure that SAEs are known to get wrong."""

    d_in: int = Field(256, ge=2)
    """Width of the activations."""
    n_features: int = Field(1024, gt=0)
    """Planted features, all kinds together; with more than d_in their directions cannot be orthogonal."""
    mean_active: float = Field(12.0, gt=0)
    """Features that are on at a token, on average, dark ones left out."""
    exponent: float = Field(1.0, ge=0)
    """Of the power law: the unit of rank r (a feature, a hierarchy or a group) occurs with a rate proportional to r^-exponent."""
    max_rate: float = Field(0.2, gt=0, le=1)
    """Largest rate of one unit, a token; the power law is cut there."""
    n_hierarchies: int = Field(24, ge=0)
    """Parents with children; a parent is on whenever a child of it is, which is what absorption needs. They stand among the most frequent quarter of units."""
    n_children: int = Field(6, ge=1)
    """Children of each parent; at most one is on, but for coincidence."""
    child_share: float = Field(0.75, gt=0, lt=1)
    """Share of a parent's firings at which a child is on too."""
    child_cosine: float = Field(0.0, ge=0, lt=1)
    """Cosine between the directions of a child and its parent, beside chance."""
    n_compositions: int = Field(64, ge=0)
    """Pairs of features that also occur jointly, which an SAE is tempted to make one latent of: their sum."""
    n_groups: int = Field(16, ge=0)
    """Groups of features that occur together."""
    group_size: int = Field(8, ge=2)
    """Features in a group; when it occurs each of them is on with probability group_keep."""
    group_keep: float = Field(0.7, gt=0, le=1)
    """Probability of each member when its group occurs."""
    joint_share: float = Field(0.5, gt=0, lt=1)
    """Share of the firings of a pair's rarer feature, or of a group's member, that are joint."""
    n_dark: int = Field(48, ge=0)
    """Rare features without structure."""
    dark_rate: float = Field(2e-4, gt=0, le=1)
    """Their rate, a token."""
    scale_spread: float = Field(0.2, ge=0)
    """Standard deviation of the logarithm of features' typical magnitudes, which are 1 on average."""
    magnitude_spread: float = Field(0.25, ge=0)
    """Standard deviation of the logarithm of a feature's magnitudes over its firings."""
    noise_frac: float = Field(0.02, ge=0, lt=1)
    """Share of the variance that is white noise, about: features count as independent in it."""
    bias: float = Field(1.0, ge=0)
    """Length of the constant that is added to every activation, relative to the square root of the features' variance."""
    example_tokens: int = Field(64, gt=0)
    """Tokens of each example; tokens are independent of each other."""
    fit_tokens: int = Field(1_000_000, gt=0)
    """Tokens to train and fit on, rounded up to whole examples."""
    held_out_tokens: int = Field(50_000, gt=0)
    """Tokens to evaluate on, rounded up to whole examples."""
    seed: int = Field(0, ge=0)
    """Of everything."""

    @model_validator(mode="after")
    def _features_suffice(self) -> Self:
        needed = self.n_structured
        if needed > self.n_features:
            raise ValueError(f"n_hierarchies, n_compositions, n_groups and n_dark need {needed} features, and n_features is {self.n_features}")
        if self.n_structured == self.n_features == self.n_dark:
            raise ValueError("all features are dark: make n_dark smaller than n_features")
        return self

    @property
    def n_structured(self) -> int:
        """Features that are not plain."""
        return self.n_hierarchies * (1 + self.n_children) + 2 * self.n_compositions + self.n_groups * self.group_size + self.n_dark

    def n_examples(self, side: str) -> int:
        """Examples of one side, `fit` or `held_out`."""
        return -(-(self.fit_tokens if side == "fit" else self.held_out_tokens) // self.example_tokens)
