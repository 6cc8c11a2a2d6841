"""Answers on disk, one file each, named by the hash of the request: what was paid for once is never asked again.

A file is written atomically the moment its answer arrives, so a killed process loses at most what was under way. A file that cannot be read counts as
missing. It holds the request and the answer in full, for people; never a key, a header or a password.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sparselight.files import write_bytes
from sparselight.interpret.llm.chat import Answer, ChatRequest

FIELDS = ("text", "refusal", "is_cut", "tokens_in", "tokens_out")


class AnswerCache:
    """A folder of answers."""

    def __init__(self, folder: Path, endpoint: str, model: str):
        self.folder, self.endpoint, self.model = folder, endpoint, model

    def key(self, request: ChatRequest) -> str:
        return request.key(self.endpoint, self.model)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, request: ChatRequest) -> Answer | None:
        """The answer to a request, if it is there."""
        try:
            found: dict[str, Any] = json.loads(self.path(self.key(request)).read_bytes().decode(errors="surrogatepass"))["answer"]
            return Answer(**{name: found[name] for name in FIELDS}, is_cached=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, request: ChatRequest, answer: Answer) -> Answer:
        """Keep an answer; returns it."""
        stored = {name: value for name, value in asdict(replace(answer, is_cached=False)).items() if name in FIELDS}
        content = {"endpoint": self.endpoint, "model": self.model, "request": request.identity(), "answer": stored}
        write_bytes(self.path(self.key(request)), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="surrogatepass"))
        return answer
