"""The settings of a selection.

Owns: SelectConfig (`select` in a recipe). Refuses: no seed of any kind, and settings of a strategy that is not asked for.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config

Text = Annotated[str, Field(min_length=1)]
Strategy = Literal["bm25", "dense"]
SEED_KINDS = ("seeds", "seed_files", "seed_texts", "seed_labels", "query")
NEEDS: dict[str, tuple[str, str]] = {
    "encoder": ("retrieve", "dense"), "encoder_pooling": ("retrieve", "dense"), "search": ("retrieve", "dense"), "query_terms": ("retrieve", "bm25"),
    "common_frac": ("retrieve", "bm25"), "k1": ("retrieve", "bm25"), "b": ("retrieve", "bm25"), "pool_factor": ("rerank", "tracin"),
    "sae": ("rerank", "tracin"), "influence": ("rerank", "tracin"),
}
"""Setting -> the setting and value without which it would do nothing."""


class SelectConfig(Config):
    """Which examples make up the domain: those most like the seeds. At least one of the five kinds of seed is given."""

    seeds: tuple[Text, ...] = ()
    """Groups (files) that are known to be of the domain: exact paths, or patterns with * and ?."""
    seed_files: tuple[Text, ...] = ()
    """Text files outside the corpus that are of the domain; they say what is looked for and are not part of the selection."""
    seed_texts: tuple[Text, ...] = ()
    """Texts of the domain, also outside the corpus."""
    seed_labels: tuple[Annotated[str, Field(pattern=r"(?s)^[^=]+=.+$")], ...] = ()
    """Labels of the domain as `kind=value`: examples that have the label, or a span of that name and value."""
    query: str = ""
    """A sentence that says what is looked for."""
    max_tokens: int = Field(default=200_000, gt=0)
    """Tokens of the selection, seeds of the corpus included."""
    retrieve: tuple[Strategy, ...] = Field(default=("bm25",), min_length=1)
    """How likeness is measured: `bm25` by shared rare terms, `dense` by vectors of `encoder`. Of several, the rankings are interleaved: the best of each,
    then the second best of each, and so on. The old name `method` is understood."""
    rerank: Literal["none", "tracin"] = "none"
    """`tracin` orders what was retrieved by how much a training step on it lowers the loss of a general SAE on the seeds."""
    pool_factor: float = Field(default=4.0, ge=1)
    """Of rerank: so many times `max_tokens` are retrieved, ordered anew, and the best kept."""
    sae: Text | None = None
    """Of rerank: the general SAE, trained at harvest.site: a folder, or hf://OWNER/NAME/PATH."""
    influence: Literal["dot", "cosine"] = "dot"
    """Of rerank: the inner product of an example's gradient with that of the seeds, or the cosine, which examples with large errors do not lead for that
    alone."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """Whether near copies of a seed, or of an example that is already chosen, are left out. Exact copies always are."""
    guard: Literal["drop", "report", "off"] = "drop"
    """What happens to training examples that are near copies of a held-out example, and to held-out ones that are near copies of a seed: they are left
    out, only counted, or not looked for."""
    near_jaccard: float = Field(default=0.8, ge=0.5, le=1)
    """Two texts are near copies when they share at least this part of their character 5-grams."""
    encoder: str = Field(default="subject", min_length=1)
    """Of dense: `subject` (mean activations of the model under study at harvest.site, centered, unit length), or an encoder by folder or Hugging Face
    name, such as facebook/contriever."""
    encoder_pooling: Literal["auto", "mean", "cls", "max", "last"] = "auto"
    """Of dense, for an encoder: how one vector is made of a text; `auto` takes what its sentence-transformers files say, and mean for Contriever."""
    search: Literal["numpy", "faiss"] = "numpy"
    """Of dense: what computes inner products. Both are exact; faiss needs `sparselight[retrieval]`."""
    query_terms: int = Field(default=32, gt=0)
    """Of bm25: distinctive terms taken from each seed example as its query."""
    pool: int = Field(default=3, gt=0)
    """An example's score is the mean of its best `pool` scores over the seed examples."""
    common_frac: float = Field(default=0.2, gt=0, le=1)
    """Of bm25: terms in more than this share of the examples are dropped."""
    k1: float = Field(default=1.5, gt=0)
    """BM25: how soon repeating a term stops to count."""
    b: float = Field(default=0.75, ge=0, le=1)
    """BM25: how much long examples are marked down."""

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if "method" in data and "retrieve" in data:
            raise ValueError("select.method is the old name of select.retrieve: give one of the two")
        renamed = {"retrieve" if name == "method" else name: [value] if name == "method" else value for name, value in data.items()}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in renamed.items()}  # what a validator returns is no JSON any more

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(getattr(self, kind) for kind in SEED_KINDS):
            raise ValueError(f"no seed is given; set at least one of {', '.join(f'select.{kind}' for kind in SEED_KINDS)}")
        if len(set(self.retrieve)) < len(self.retrieve):
            raise ValueError(f"select.retrieve = {list(self.retrieve)} names a strategy twice")
        for name, (other, value) in NEEDS.items():
            asked = getattr(self, other)
            if getattr(self, name) != type(self).model_fields[name].default and value != asked and (isinstance(asked, str) or value not in asked):
                raise ValueError(f"select.{name} = {getattr(self, name)!r} would do nothing: it is a setting of select.{other} = {value!r}")
        if self.encoder == "subject" and self.encoder_pooling != "auto":
            raise ValueError("select.encoder_pooling would do nothing: activations of the subject are averaged (select.encoder)")
        return self
