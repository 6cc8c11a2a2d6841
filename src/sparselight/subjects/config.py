"""Which model is studied, and how it is run. Refuses, when read: an empty source, rows shorter than two tokens, unknown dtypes."""

from typing import Literal

from pydantic import Field

from sparselight.config import Config


class SubjectConfig(Config):
    """The model under study."""

    source: str = Field("demo", min_length=1)
    """`demo` (the model that ships with the package), a local folder, or a Hugging Face hub name."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format in which the model computes; activations are always handed out in float32."""
    device: str = "auto"
    """`auto` (cuda where there is one, else cpu), or a torch device name."""
    context_tokens: int = Field(512, ge=2)
    """Longest row that the model sees at once, BOS included, in tokens; longer examples go on in a further row."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a hub model may run on this machine."""
