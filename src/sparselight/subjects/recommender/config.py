"""Which recommender is trained, and how; the table `subject.recommender` of a recipe.

Owns: RecommenderConfig. Refuses, when read: settings that the architecture does not have.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config

Architecture = Literal["sasrec", "timirec", "bpr_mf", "lightgcn"]
OWN: dict[str, tuple[str, ...]] = {  # settings that mean something to some architectures only
    "n_heads": ("sasrec",), "n_layers": ("sasrec", "lightgcn"), "n_interests": ("timirec",), "d_attention": ("timirec",), "extractor_epochs": ("timirec",),
    "max_history": ("sasrec", "timirec"), "dropout": ("sasrec",),
}


class RecommenderConfig(Config):
    """A recommender that is trained on the corpus; for one that is only loaded, `unknown_items` alone counts."""

    architecture: Architecture = "sasrec"
    """sasrec (Kang and McAuley 2018), timirec (Wang et al. 2022), bpr_mf (Rendle et al. 2009), lightgcn (He et al. 2020)."""
    d: int = Field(64, ge=2)
    """Width of user and item vectors."""
    n_layers: int = Field(1, ge=1)
    """Blocks of sasrec, propagation steps of lightgcn."""
    n_heads: int = Field(1, ge=1)
    """Attention heads of sasrec."""
    n_interests: int = Field(6, ge=1)
    """Interest vectors of timirec (K)."""
    d_attention: int = Field(8, ge=1)
    """Width of timirec's interest attention."""
    extractor_epochs: int = Field(8, ge=0)
    """Most epochs in which timirec's interest extractor is trained alone, before all of it."""
    max_history: int = Field(20, ge=1)
    """Interactions of a user that the model sees, the last ones."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of sasrec, while training."""
    loss: Literal["softmax", "bpr"] = "softmax"
    """Cross entropy over all items; or -log sigmoid(positive - one sampled negative), as RecSAE's recommenders were trained."""
    lr: float = Field(3e-3, gt=0)
    """Learning rate of Adam."""
    weight_decay: float = Field(1e-6, ge=0)
    """L2 penalty of all weights but biases, in Adam's gradient."""
    batch_rows: int = Field(512, ge=1)
    """Targets a step."""
    max_epochs: int = Field(30, ge=1)
    """Most passes over the training interactions."""
    patience: int = Field(3, ge=1)
    """Epochs without a better NDCG@10 on the dev part after which training ends; the best epoch is kept."""
    unknown_items: Literal["refuse", "drop"] = "refuse"
    """What happens to interactions with items that the model does not know: refused, or left out as if they were not there."""
    seed: int = Field(0, ge=0)
    """Of weights, order, negatives and dropout."""

    @model_validator(mode="after")
    def _own_settings(self) -> Self:
        for name, architectures in OWN.items():
            if self.architecture not in architectures and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} = {getattr(self, name)} means nothing to {self.architecture}")
        if self.d % self.n_heads:
            raise ValueError(f"d = {self.d} cannot be divided among n_heads = {self.n_heads}")
        return self
