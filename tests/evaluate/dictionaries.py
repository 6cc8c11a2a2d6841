"""Small dictionaries with given decoder rows, and cases to measure them in: weights only, or a few tokens on which chosen latents fire."""

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Cell, Findings
from sparselight.protocols import Example
from sparselight.sae import Sae
from sparselight.sae.formats.wrap import sae_from_arrays

SITE = "somewhere"
TOKENS = 3  # an example


def unit(rows: Tensor) -> Float[Tensor, "row d"]:
    return rows / rows.norm(dim=1, keepdim=True)


def random_rows(n: int, d: int, seed: int = 0) -> Float[Tensor, "row d"]:
    return unit(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def dictionary(W_dec: Tensor, W_enc: Tensor | None = None, alive: Bool[np.ndarray, " latent"] | None = None) -> Sae:
    """An SAE with these decoder rows and encoder rows; latents that are alive fire on every token, the others on none."""
    living = np.ones(len(W_dec), dtype=bool) if alive is None else alive
    return sae_from_arrays((W_dec if W_enc is None else W_enc).T, W_dec, np.where(living, 1e3, -1e3), subtract_b_dec=False)


class MemoryStore:
    """A store of random activations for some examples of TOKENS tokens."""

    def __init__(self, examples: list[Example], d_in: int):
        self.listed, self.d_in, self.n_tokens = examples, d_in, len(examples) * TOKENS

    def tokens(self) -> pa.Table:
        example = np.repeat(np.arange(len(self.listed)), TOKENS)
        position = np.tile(np.arange(TOKENS), len(self.listed))
        return pa.table({"example": example, "position": position, "token_id": position, "char_start": position, "char_end": position + 1})

    def examples(self) -> pa.Table:
        return pa.table({"example": np.arange(len(self.listed)), "id": [example.id for example in self.listed], "group": [e.group for e in self.listed]})

    def rows_of(self, examples: list[str]) -> np.ndarray:
        chosen = [number for number, example in enumerate(self.listed) if example.id in set(examples)]
        return np.concatenate([np.arange(number * TOKENS, (number + 1) * TOKENS) for number in chosen])

    def read(self, rows: np.ndarray, site: str) -> Float[Tensor, "token d_in"]:
        return random_rows(self.n_tokens, self.d_in)[torch.from_numpy(rows)]


def case_of(d_in: int | None = None) -> Case:
    """A case of weights alone, or with a width 12 tokens of a dataset with two sides."""
    if d_in is None:
        return Case(SITE, {}, CaseConfig())
    sides = [[Example(f"{side}{number}", "abc", f"{side}{number}") for number in range(2)] for side in ("fit", "held")]
    stores = [MemoryStore(side, d_in) for side in sides]
    return Case(SITE, {"some": Dataset("some", *sides, *stores)}, CaseConfig())  # type: ignore[arg-type]


def contenders(**coders: Sae) -> dict[str, Contender]:
    """Coders by name; those whose names begin with `control` are controls."""
    return {name: Contender(coder, is_control=name.startswith("control")) for name, coder in coders.items()}


def value(findings: Findings, coder: str, metric: str, setting: str = "") -> float:
    return findings.values[Cell(coder, metric, setting=setting)].value


def why_not(findings: Findings, coder: str, metric: str, setting: str = "") -> str:
    return findings.undefined[Cell(coder, metric, setting=setting)]
