"""Settings of explanation and scoring with a language model: which server, how it is asked, and what it may cost.

Dotted names are `explain.llm.X` and `explain.scorers.X`. Owns the rule which environment variable holds the key: a key goes only to the host that it is
meant for, and no setting ever holds one. Refuses: an endpoint that is no URL or carries a password, prices without which a cap on cost means nothing.
"""

import ipaddress
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from sparselight.config import Config

OPENAI_HOST = "api.openai.com"

ScorerName = Literal["detection", "fuzzing", "intruder", "level_prediction", "embedding", "keywords"]
ControlName = Literal["random_latent", "raw_neuron"]


class LlmConfig(Config):
    """A server that speaks the OpenAI protocol, and how explanations are asked of it."""

    endpoint: str = ""
    """Base URL, such as http://127.0.0.1:8000/v1 (vLLM, llama.cpp, Ollama, transformers serve, a cloud)."""
    model: str = ""
    """Name of the model, as the server lists it."""
    api_key_env: str = ""
    """Environment variable that holds the key. Empty: OPENAI_API_KEY for api.openai.com, SPARSELIGHT_LLM_API_KEY for any other host; none is fine too."""
    style: Literal["default", "contrastive"] = "default"
    """`contrastive` also shows examples on which the latent is silent: near misses first, then random ones."""
    n_examples: int = Field(20, ge=1)
    """Examples shown to the explainer, at most."""
    max_words: int = Field(30, ge=3)
    """Length that the explainer is asked to keep to."""
    images: bool = False
    """Show pictures to a model that takes them (`image_url` parts): under a heat map to the explainer, as they are to detection. Of runs with images only."""
    max_images: int = Field(10, ge=1)
    """Pictures of one request, at most; further examples are asked about by their text."""
    prompts: str = ""
    """Folder of prompt files that replace those of the package, by name; empty: none."""
    temperature: float | Literal["server"] = 0.0
    """Of sampling; `server` leaves it to the server, for models that take none."""
    top_p: float | Literal["server"] = "server"
    """Nucleus of sampling; `server` leaves it to the server."""
    seed: int | Literal["server"] = 0
    """Sent with every request; another seed asks everything again. `server` leaves it out, for servers that take none."""
    max_answer_tokens: int = Field(400, ge=16)
    """Tokens of one answer, at most; what a thinking model thinks counts."""
    structured: Literal["auto", "schema", "object", "off"] = "auto"
    """How the server is held to JSON: by a schema, as any object, or by the prompt alone; `auto` takes the first that it accepts."""
    n_repairs: int = Field(1, ge=0)
    """How often an answer that cannot be read is asked for again, with a word on the form."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at once."""
    requests_per_minute: float | None = Field(None, gt=0)
    """No more requests a minute than this."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """No more tokens a minute than this, by estimate, answers included."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds that one request may take."""
    max_retries: int = Field(6, ge=0)
    """Further attempts at a request after 429, a server's error, a timeout or a cut connection."""
    backoff_s: float = Field(1.0, ge=0)
    """Seconds before the first further attempt; doubled each time. A Retry-After of the server goes before it."""
    max_wait_s: float = Field(120.0, ge=0)
    """Longest wait between two attempts; a server that asks for more ends the work, which then goes on when called again."""
    max_calls: int = Field(20_000, ge=1)
    """Requests sent by one call of the command, attempts included; never exceeded. Answers that are on disk cost nothing and do not count."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens read and written by one call of the command; never exceeded."""
    max_cost: float | None = Field(None, gt=0)
    """Cost of one call of the command, in the currency of the prices; never exceeded. Needs both prices."""
    price_in: float | None = Field(None, ge=0)
    """Price of a million tokens read."""
    price_out: float | None = Field(None, ge=0)
    """Price of a million tokens written."""

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("must be a URL such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("must hold no password and no parameters: a key belongs into the environment (explain.llm.api_key_env)")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _cost_has_prices(self) -> Self:
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("max_cost needs price_in and price_out, the prices of a million tokens")
        return self

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).hostname or ""

    @property
    def key_variable(self) -> str:
        """Name of the environment variable whose value is sent as the key."""
        return self.api_key_env or ("OPENAI_API_KEY" if self.host == OPENAI_HOST else "SPARSELIGHT_LLM_API_KEY")

    def is_local(self) -> bool:
        """Whether the endpoint is this machine, where no proxy has a say."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ScorersConfig(Config):
    """How explanations are scored on examples that the explainer has not seen."""

    names: tuple[ScorerName, ...] = ("detection",)
    """Which scorers: detection, fuzzing, intruder, level_prediction, embedding, keywords."""
    n_positive: int = Field(50, ge=2)
    """Examples on which the latent fires, at most; how many there are to choose from: explain.examples."""
    n_negative: int = Field(50, ge=2)
    """Examples on which it is silent, at most."""
    n_near_misses: int = Field(5, ge=0)
    """Further silent examples that look like firing ones, scored apart."""
    min_examples: int = Field(3, ge=2)
    """With fewer firing or silent examples there is no score, and the record says so."""
    examples_per_prompt: int = Field(5, ge=1)
    """Examples that detection and fuzzing show at once."""
    n_shown: int = Field(4, ge=2)
    """Firing examples beside the intruder: chance is 1 / (n_shown + 1)."""
    n_trials: int = Field(8, ge=1)
    """Groups of examples in which an intruder is looked for."""
    encoder: str = ""
    """Sentence encoder of the embedding scorer: a folder or a Hugging Face name."""
    encoder_tokens: int = Field(256, ge=8)
    """Tokens that the encoder reads of an explanation or example; what is longer is cut there."""
    n_control_latents: int = Field(20, ge=0)
    """Latents on which each control is measured; 0: no controls."""
    controls: tuple[ControlName, ...] = ()
    """Besides the explanations of other latents: latents of an untrained SAE (`random_latent`) and channels of the activations (`raw_neuron`), explained
    and scored by the same procedure, at the same price."""
    n_bootstrap: int = Field(1000, ge=10)
    """Resamples of the examples' groups for the 95 % intervals."""
    seed: int = 0
    """Of the choice and order of examples, the controls and the bootstrap."""
