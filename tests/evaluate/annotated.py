"""Datasets in memory whose tokens carry labels that chosen latents read off: one character is one token, and latents are given by a function."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.protocols import Codes, Example, Span

SITE = "somewhere"
LETTERS = "aaaaaaaabbbbccd"  # frequencies of token ids fall
TOKENS = 24  # an example


@dataclass
class Columns:
    """What a test may make activations of: one entry a token."""

    letter: np.ndarray
    region: np.ndarray
    first: np.ndarray
    """Whether the token is the first of its span."""
    topic: np.ndarray
    rng: np.random.Generator


Activations = Callable[[Columns], np.ndarray]


class AnnotatedStore:
    """A store of given activations; every example has TOKENS tokens unless its text is shorter."""

    def __init__(self, examples: list[Example], x: Float[Tensor, "token d_in"]):
        self.listed, self.x, self.n_tokens = examples, x, len(x)
        self.example = np.repeat(np.arange(len(examples)), [len(example.text) for example in examples])
        self.position = np.concatenate([np.arange(len(example.text)) for example in examples])

    def tokens(self) -> pa.Table:
        ids = np.array([ord(letter) for example in self.listed for letter in example.text])
        return pa.table({"example": self.example, "position": self.position, "token_id": ids, "char_start": self.position, "char_end": self.position + 1})

    def examples(self) -> pa.Table:
        return pa.table({"example": np.arange(len(self.listed)), "id": [example.id for example in self.listed], "group": [e.group for e in self.listed]})

    def rows_of(self, examples: list[str]) -> np.ndarray:
        wanted = [number for number, example in enumerate(self.listed) if example.id in set(examples)]
        return np.flatnonzero(np.isin(self.example, wanted))

    def read(self, rows: np.ndarray, site: str) -> Float[Tensor, "token d_in"]:
        return self.x[torch.from_numpy(rows)]


class ReadOff:
    """A coder whose latents are the activations themselves, and whose decoder rows are unit vectors."""

    def __init__(self, d_in: int):
        self.d_in = self.n_latents = d_in
        self.W_dec = torch.eye(d_in)

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        token, latent = x.nonzero(as_tuple=True)
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), (x != 0).sum(1).cumsum(0)])
        return Codes(x[token, latent], latent, indptr, self.n_latents)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return codes.to_dense()

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def make_side(name: str, n_groups: int, activations: Activations, seed: int) -> tuple[list[Example], AnnotatedStore]:
    """Two examples a group: spans `region` alpha (often), beta and gamma (rare) of three tokens, and a label `topic`, the same in a group."""
    rng, examples, regions, firsts = np.random.default_rng(seed), [], [], []
    for number in range(n_groups):
        for half in range(2):
            text = "".join(rng.choice(list(LETTERS), TOKENS))
            value = np.full(TOKENS, "", dtype=object)
            first, spans = np.zeros(TOKENS, dtype=bool), []
            for start in range(0, TOKENS - 3, 6):
                kind = rng.choice(["alpha", "beta", "gamma", ""], p=[0.4, 0.2, 0.1, 0.3])
                if kind:
                    spans.append(Span(start, start + 3, "region", str(kind)))
                    value[start : start + 3], first[start] = kind, True
            topic = "tea" if number % 3 == 0 else "wine"
            examples.append(Example(f"{name}{number}.{half}", text, f"{name}{number}", {"topic": topic}, tuple(spans)))
            regions.append(value)
            firsts.append(first)
    columns = Columns(np.array([letter for example in examples for letter in example.text]), np.concatenate(regions), np.concatenate(firsts),
                      np.repeat([example.labels["topic"] for example in examples], TOKENS), rng)
    return examples, AnnotatedStore(examples, torch.from_numpy(activations(columns)).float())


def annotated_case(activations: Activations, n_groups: int = 30, n_bootstrap: int = 60, seed: int = 0) -> Case:
    """A case with one dataset `some` at one site."""
    fit, fit_store = make_side("fit", n_groups, activations, seed)
    held, held_store = make_side("held", n_groups, activations, seed + 1)
    return Case(SITE, {"some": Dataset("some", fit, held, fit_store, held_store)}, CaseConfig(n_bootstrap=n_bootstrap))  # type: ignore[arg-type]


def on(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An activation that is positive exactly where it should be."""
    return where * rng.uniform(1, 2, len(where))
