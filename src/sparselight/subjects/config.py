"""Which model is studied, how it is run, and what it sees of a text.

Owns: SubjectConfig (`subject` in a recipe) and TokenSettings, the part of it that becomes the recorded token policy. Refuses, when
read: an empty source, rows shorter than two tokens, overlaps that leave no new token in a row, unknown dtypes.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config
from sparselight.subjects.image_text.config import ImageTextConfig
from sparselight.subjects.recommender.config import RecommenderConfig

Kind = Literal["causal_lm", "masked_lm", "encoder", "image_text"]
Pooling = Literal["none", "auto", "mean", "cls", "max", "last"]


class TokenSettings(Config):
    """What a subject sees of a text, and which of it counts. What comes of it stands in every record as the token policy."""

    context_tokens: int = Field(512, ge=2)
    """Longest row that the model sees at once, BOS included, in tokens."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Special tokens at the ends of each row. `auto`: BOS where a causal model's tokenizer has one, and what the tokenizer itself puts round a text
    ([CLS] and [SEP], <cls> and <eos>) for other models; `always` refuses a tokenizer without; `never` for texts that bring their own."""
    count_specials: bool = False
    """Whether special tokens count, those at the ends of rows included."""
    padding_side: Literal["right", "left"] = "right"
    """Where shorter rows of a batch are filled up; refused where it would change activations."""
    long_examples: Literal["split", "cut"] = "split"
    """Whether an example that is longer than a row goes on in further rows, or is cut off."""
    overlap_tokens: int = Field(0, ge=0)
    """Tokens of the row before that a further row begins with, as context; each token still counts once."""
    skip_start_tokens: int = Field(0, ge=0)
    """Tokens at the start of each row that do not count, such as the first one of models without BOS, whose norm is huge."""
    pack: bool = False
    """Put several short examples into one row, each with attention and positions of its own; refused where the model would let them see each other."""
    chat_template: bool = False
    """Show each example as one user message in the tokenizer's chat template; only the message counts."""
    pooling: Pooling = "none"
    """One vector an example instead of one a token, at the site `pooled`, for encoders: mean, cls (first position), max or last; `auto` takes what the
    model's sentence-transformers files say."""
    max_norms: dict[str, float] = Field(default_factory=dict)
    """Site to the largest norm that counts there; `sparselight.subjects.norm_limits` measures it as a multiple of the median."""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if self.overlap_tokens >= self.context_tokens - 1:
            raise ValueError(f"overlap_tokens = {self.overlap_tokens} leaves no new token in rows of context_tokens = {self.context_tokens}")
        for site, limit in self.max_norms.items():
            if not limit > 0:
                raise ValueError(f"max_norms at {site} is {limit}, not above 0")
        return self


class SubjectConfig(TokenSettings):
    """The model under study."""

    source: str = Field("demo", min_length=1)
    """`demo` (the model that ships with the package), a local folder, a Hugging Face hub name, or with kind = "module" a function: `FILE.py:FUNCTION` or
    `package.module:FUNCTION`."""
    kind: Literal["auto", "causal_lm", "masked_lm", "encoder", "image_text", "recommender", "module"] = "auto"
    """What the model is: it predicts the next token, masked tokens, or nothing (activations only), or it reads images beside text (image_text); `auto` reads
    it from the model's config. A recommender is the folder that `train_recommender` wrote, or `train`: it is then trained on the run's corpus, in the
    run's folder. A module is what the Python function that `source` names returns: any PyTorch model (docs/guides/subjects.md)."""
    arguments: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """What that function is called with, by name (kind = "module")."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format in which the model computes; activations are always handed out in float32."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Weights in 8 bits (LLM.int8) or 4 (NF4), by bitsandbytes."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), or a torch device name."""
    device_map: Literal["none", "auto", "balanced", "sequential"] = "none"
    """How accelerate divides a model over several devices; `none` keeps it on `device`."""
    mask_frac: float = Field(0.15, gt=0, le=0.5)
    """Share of the tokens that a masked language model's loss hides in one forward pass; rounded down to 1 / a whole number."""
    mask_rounds: int | None = Field(None, ge=1)
    """How many passes, each with other tokens hidden, that loss takes; by default as many as score every token."""
    mask_seed: int = 0
    """Of the choice of tokens that are hidden together."""
    image_text: ImageTextConfig = ImageTextConfig()
    """What an image-text model is shown of images, and which of it counts (kind = "image_text")."""
    recommender: RecommenderConfig = RecommenderConfig()
    """Which recommender is trained, and how (kind = "recommender")."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a hub model, or that `source` names, may run on this machine."""
