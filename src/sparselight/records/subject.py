"""Which model, exactly, and which of its positions count as tokens."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sparselight.places import known_as
from sparselight.records.base import Part


class ImagePolicy(Part):
    """How an image-text subject sees images, and which of their tokens count."""

    part: Literal["language", "vision"]
    """Whose tokens those of the subject are: the language model's, or the vision encoder's (its patches)."""
    image_tokens: Literal["none", "last", "all"]
    """Which tokens of each image count."""
    max_images: int
    """Images of an example that the model is given; further ones are left out."""
    prompt_prefix: str
    """What stands before the text of an example, `{images}` for its images; it does not count."""
    prompt_suffix: str
    """What stands after it; it does not count."""
    image_form: str
    """What stands for each image: `{image}` its tokens, `{name}` its view or role."""
    text_alone: bool = False
    """Examples without images are shown as text alone."""


class TokenPolicy(Part):
    """Which positions a subject sees and which count as tokens: the same at training, evaluation and steering."""

    prepend_bos: bool
    """Every row starts with the BOS token ([CLS] in BERT's kind); it counts only where count_specials says so."""
    context_tokens: int
    """Longest row in positions, BOS and all else that belongs to no example included."""
    count_specials: bool = False
    """Whether special tokens count: those inside a text, and those at the ends of each row."""
    append_eos: bool = False
    """Every row ends with the tokenizer's end token ([SEP], </s>, <eos>)."""
    padding_side: Literal["right", "left"] = "right"
    """Where shorter rows of a batch are filled up; padding never counts."""
    long_examples: Literal["split", "cut"] = "split"
    """Whether what does not fit into one row goes on in further rows or is left out."""
    overlap_tokens: int = 0
    """Tokens of the row before with which each further row of an example begins: context only, they count in the row before."""
    skip_start_tokens: int = 0
    """Tokens at the start of each row, after BOS, that do not count."""
    pack: bool = False
    """Several short examples share a row; attention and positions start anew with each."""
    chat_prefix: str = ""
    """What the tokenizer's chat template writes before the text of an example; it does not count."""
    chat_suffix: str = ""
    """What it writes after it; it does not count."""
    template_tokens: int = 0
    """Positions a row that belong to no example, beside one start and one end token: the chat template's, and further start or end tokens."""
    pooling: Literal["none", "mean", "cls", "max", "last"] = "none"
    """Other than `none`: an example is one token, the pooled vector of its row."""
    unit_pooled: bool = False
    """Pooled vectors are scaled to length 1."""
    max_norms: dict[str, float] = Field(default_factory=dict)
    """Site to the largest norm that an activation may have there; tokens above it are neither harvested nor edited at that site."""
    images: ImagePolicy | None = None
    """Of image-text subjects."""

    @property
    def body_tokens(self) -> int:
        """How many tokens of an example one row holds."""
        return self.context_tokens - self.prepend_bos - self.append_eos - self.template_tokens

    def canonical(self) -> str:
        """JSON for fingerprints. Fields that came later enter only where they differ from their default, so that older fingerprints stay."""
        later = type(self).model_fields.keys() - {"prepend_bos", "context_tokens", "count_specials"}
        plain = TokenPolicy(prepend_bos=self.prepend_bos, context_tokens=self.context_tokens)
        return self.model_dump_json(exclude={name for name in later if getattr(self, name) == getattr(plain, name)})


class Masking(Part):
    """How the loss of a masked language model hides tokens."""

    n_groups: int
    """The tokens of an example are divided into so many groups; one forward pass masks one group."""
    rounds: int
    """Groups that are masked in turn and scored; the other tokens have no loss."""
    seed: int


class SubjectRef(Part):
    """Which model, exactly."""

    name: str
    """What people call it; of a model on a hub, what loads it."""
    fingerprint: str
    """SHA-256 over weights, tokenizer and token policy."""
    token_policy: TokenPolicy
    kind: Literal["causal_lm", "masked_lm", "encoder", "module", "recommender", "image_text"] = "causal_lm"
    masking: Masking | None = None
    """Of a masked language model's loss."""
    source: str = ""
    """The folder that it was loaded from; empty where its name loads it, and in what is published."""

    @property
    def address(self) -> str:
        """What loads it."""
        return self.source or self.name

    @model_validator(mode="before")
    @classmethod
    def _name_of_a_folder(cls, fields: Any) -> Any:
        """Records of earlier versions call a model in a folder by its path."""
        if isinstance(fields, dict) and "source" not in fields and known_as(str(fields.get("name", ""))) != fields.get("name"):
            return {**fields, "name": known_as(str(fields["name"])), "source": fields["name"]}
        return fields
