"""Prompt files: one a task and modality, plain text that a user can copy, change and point `explain.llm.prompts` at.

A file holds turns, each headed by `[system]`, `[user]` or `[assistant]` on a line of its own, and slots `{{name}}`. Text that fills a slot is never read
again for slots, and what comes from a corpus or a model is fenced by a line that cannot occur in it. Looked for in this order: the user's folder, then the
package's, each with the modality's folder first and `text` after it. Refuses: a missing file, an unknown slot, a file without turns.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sparselight.errors import ConfigError, nearest
from sparselight.interpret.llm.chat import Message

TURN = re.compile(r"^\[(system|user|assistant)\][ \t]*\n", re.M)
SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}")
FENCE = "-----"
# Slots of each task; `form` is the JSON that the answer has to be.
TASKS: dict[str, tuple[str, ...]] = {
    "explain": ("examples", "max_words", "form"),
    "explain_contrastive": ("examples", "silent_examples", "max_words", "form"),
    "detection": ("explanation", "examples", "n_examples", "form"),
    "fuzzing": ("explanation", "examples", "n_examples", "form"),
    "intruder": ("examples", "n_examples", "form"),
    "level_prediction": ("explanation", "examples", "form"),
    "repair": ("form",),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with open slots."""

    task: str
    source: str
    turns: tuple[tuple[str, str], ...]
    hash: str
    """SHA-256 of the file, shortened: what the record of an explanation keeps."""

    def fill(self, **slots: str) -> tuple[Message, ...]:
        """The messages, with every slot filled in one pass."""
        return tuple(Message(role, SLOT.sub(lambda match: slots[match[1]], text)) for role, text in self.turns)


class Prompts:
    """The prompts of one modality.

    Args:
        modality: `text`, `residues`, `items` or `image`.
        folder: the user's own files, `TASK.txt` or `MODALITY/TASK.txt`; empty: none.

    Raises:
        ConfigError: when that folder is missing.
    """

    def __init__(self, modality: str, folder: str = ""):
        self.modality, self.folder = modality, Path(folder).expanduser() if folder else None
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(asked=f"take prompts from explain.llm.prompts = {folder!r}", why="there is no such folder",
                              instead=f"copy files of {package_folder()} into a folder, change them there, and give that folder")
        self._loaded: dict[str, Prompt] = {}

    def __getitem__(self, task: str) -> Prompt:
        if task not in self._loaded:
            self._loaded[task] = load_prompt(self.find(task), task)
        return self._loaded[task]

    def find(self, task: str) -> Path:
        """The file of a task."""
        places = [*([self.folder / self.modality, self.folder] if self.folder else []), package_folder() / self.modality, package_folder() / "text"]
        for place in places:
            if (place / f"{task}.txt").is_file():
                return place / f"{task}.txt"
        raise ConfigError(asked=f"find the prompt {task}.txt", why=f"it is in none of {', '.join(map(str, places))}", instead="install the package again")


def package_folder() -> Path:
    """Where the prompts of the package lie."""
    return Path(str(resources.files("sparselight"))) / "assets" / "prompts"


def load_prompt(path: Path, task: str) -> Prompt:
    """Read a prompt file.

    Raises:
        ConfigError: when it cannot be read, has no turns, or a slot that the task does not fill.
    """
    asked = f"use the prompt {path} (explain.llm.prompts)"
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(asked=asked, why=str(err), instead="make it readable UTF-8 text") from None
    parts = TURN.split(text)
    turns = tuple((role, content.strip()) for role, content in zip(parts[1::2], parts[2::2], strict=True))
    if not turns or parts[0].strip() or not any(role == "user" for role, _ in turns):
        raise ConfigError(asked=asked, why="it is not a series of turns with one of the user", instead="head each turn by [system], [user] or [assistant]")
    for _, content in turns:
        for slot in SLOT.findall(content):
            if slot not in TASKS[task]:
                raise ConfigError(asked=asked, why=f"it has the slot {{{{{slot}}}}}, which the task {task} does not fill", instead=nearest(slot, TASKS[task]))
    return Prompt(task, str(path), turns, hashlib.sha256(text.encode()).hexdigest()[:16])


def fenced(texts: Sequence[str], labels: Sequence[str]) -> str:
    """Texts of a corpus or a model between marked lines that none of them holds, so that none can pass for the prompt."""
    fence = FENCE
    while any(fence in text for text in texts):
        fence += "-"
    return "\n".join(f"{fence} {label} {fence}\n{text}\n{fence} end {fence}" for text, label in zip(texts, labels, strict=True))


def form_of(schema: Mapping[str, object]) -> str:
    """The JSON that an answer has to be, in words that every model understands: an example made of the schema's descriptions."""
    properties = schema["properties"]
    assert isinstance(properties, dict)
    return "{" + ", ".join(f'"{name}": {field["description"]}' for name, field in properties.items()) + "}"
