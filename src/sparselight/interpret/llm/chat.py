"""One request to a language model and its answer, as plain data: what is sent, what identifies it on disk, what came back.

The key of a request is a hash of endpoint, model, messages, form of the answer and sampling: all that can change the answer. How the server is held to that
form (a JSON schema where it takes one) is not part of it, so that an answer found once is found again without asking the server what it takes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sparselight.config import canonical_json

Structured = Literal["schema", "object", "off"]
MESSAGE_TOKENS = 16  # what a chat template may add to a message: role, separators
IMAGE_TOKENS, MOST_IMAGE_TOKENS = 600, 4096  # a picture of at most 512 pixels a side: an estimate, and above what models in use make of it
CHARS_A_TOKEN = 3.5  # of English text with marks and numbers, roughly; only estimates use it


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    text: str
    images: tuple[str, ...] = ()
    """data: URLs of pictures that follow the text."""

    def identity(self) -> list[Any]:
        """What identifies it; of a turn without pictures the same as ever."""
        return [self.role, self.text, *([[hashlib.sha256(image.encode()).hexdigest() for image in self.images]] if self.images else [])]

    def content(self) -> str | list[dict[str, Any]]:
        """As the protocol wants it: a text, or parts where there are pictures."""
        text = self.text.encode(errors="replace").decode()
        images = [{"type": "image_url", "image_url": {"url": image}} for image in self.images]
        return [{"type": "text", "text": text}, *images] if images else text


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn; None leaves it to the server."""

    max_tokens: int
    temperature: float | None = 0.0
    top_p: float | None = None
    seed: int | None = 0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked, and the JSON schema of the answer."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any]
    sampling: Sampling

    def identity(self) -> dict[str, Any]:
        """All of it, as plain data."""
        sampling = self.sampling
        return {
            "messages": [message.identity() for message in self.messages], "schema": self.schema,
            "sampling": {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed},
        }

    def key(self, endpoint: str, model: str) -> str:
        """SHA-256 that names the answer on disk."""
        return hashlib.sha256(canonical_json({"endpoint": endpoint, "model": model, **self.identity()}).encode()).hexdigest()

    def body(self, model: str, structured: Structured, limit_field: str = "max_tokens") -> dict[str, Any]:
        """The body of the HTTP request."""
        body: dict[str, Any] = {
            "model": model, "messages": [{"role": message.role, "content": message.content()} for message in self.messages],
            limit_field: self.sampling.max_tokens, "stream": False,
        }
        for name in ("temperature", "top_p", "seed"):
            if getattr(self.sampling, name) is not None:
                body[name] = getattr(self.sampling, name)
        if structured == "schema":
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": self.schema}}
        elif structured == "object":
            body["response_format"] = {"type": "json_object"}
        return body

    def most_tokens_in(self) -> int:
        """A bound on the tokens read: no tokenizer in use makes more of them than there are bytes, and the schema may be shown to the model too."""
        texts = sum(len(message.text.encode(errors="replace")) + MESSAGE_TOKENS for message in self.messages)
        return texts + MOST_IMAGE_TOKENS * self.n_images + len(canonical_json(self.schema))

    def expected_tokens_in(self) -> int:
        """The tokens read, by estimate."""
        return round(sum(len(message.text) / CHARS_A_TOKEN + MESSAGE_TOKENS / 4 for message in self.messages)) + IMAGE_TOKENS * self.n_images

    @property
    def n_images(self) -> int:
        return sum(len(message.images) for message in self.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a text, a refusal, or a problem."""

    text: str = ""
    refusal: str = ""
    """The server's own word that the model refused, or that a filter cut the answer."""
    problem: str = ""
    """Why there is no answer: the server rejected the request, or failed at it again and again, or a cap was reached."""
    is_cut: bool = False
    """Whether the answer ended at max_answer_tokens."""
    tokens_in: int = 0
    tokens_out: int = 0
    is_cached: bool = False
