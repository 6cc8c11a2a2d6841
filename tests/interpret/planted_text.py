"""Text, subject and coder whose latents are known: what tests of explanations and of draws share."""

import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from sparselight.interpret import ExplainConfig, TokenSet
from sparselight.protocols import Codes, Example, Span

TOKEN = re.compile(r" ?[A-Za-z0-9]+|\s|[^\sA-Za-z0-9]")
WORDS = ["alpha", "beta", "gamma", "delta", "secret", "key", "def", "import", "value", "x"]
CONFIG = ExplainConfig(min_support=5, min_fires=5, n_bootstrap=100, n_shuffles=3, n_contexts=8, context_tokens=10)


@dataclass
class PlantedStore:
    """Tokens by regular expression; the activation row of a token is (token id, running number, 1)."""

    examples_given: list[Example]
    vocabulary: dict[str, int]
    columns: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self):
        self.columns = {name: [] for name in ("example", "position", "token_id", "char_start", "char_end")}
        for number, example in enumerate(self.examples_given):
            for position, match in enumerate(TOKEN.finditer(example.text)):
                token_id = self.vocabulary.setdefault(match.group(), len(self.vocabulary))
                for name, value in zip(self.columns, (number, position, token_id, *match.span()), strict=True):
                    self.columns[name].append(value)
        self.n_tokens = len(self.columns["example"])

    def tokens(self):
        return pa.table(self.columns)

    def examples(self):
        given = self.examples_given
        return pa.table({"example": list(range(len(given))), "id": [item.id for item in given], "group": [item.group for item in given]})

    def read(self, rows, site):
        return torch.tensor([[float(self.columns["token_id"][row]), float(row), 1.0] for row in rows.tolist()])

    def all(self, name):
        return TokenSet(name, self, np.arange(self.n_tokens), {example.id: example for example in self.examples_given})


class PlantedSubject:
    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def token_text(self, token_id):
        return list(self.vocabulary)[token_id]

    def output_effects(self, directions, site):
        return directions[:, :1] * torch.arange(len(self.vocabulary))


class PlantedCoder:
    """Latent 0 fires on the word `secret`, but stays quiet on a tenth of them and fires on a few others; 1 fires at random; 2 never;
    3 weakly on all words and strongly on the token ` key`."""

    d_in, n_latents = 3, 4
    W_dec = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]])

    def __init__(self, stores, vocabulary):
        texts = list(vocabulary)
        self.secret = torch.tensor([text.strip() == "secret" for text in texts])
        self.key = torch.tensor([text == " key" for text in texts])
        self.word = torch.tensor([text.strip().isalnum() for text in texts])

    def encode(self, x):
        ids, rows = x[:, 0].long(), x[:, 1].long()
        secret = self.secret[ids]
        dense = torch.zeros(len(x), 4)
        dense[:, 0] = torch.where(secret, rows * 7919 % 10 != 0, rows * 7919 % 200 == 1).float()
        dense[:, 1] = (rows * 104729 % 97 % 11 == 0).float()
        dense[:, 3] = torch.where(self.key[ids], 10.0, self.word[ids].float())
        token, latent = dense.nonzero(as_tuple=True)
        counts = torch.bincount(token, minlength=len(x))
        return Codes(dense[token, latent], latent, torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]), 4)


def planted_examples(tag, n_groups, seed, package="pkg"):
    rng = np.random.default_rng(seed)
    examples = []
    for group in range(n_groups):
        for part in range(2):
            text = " ".join(rng.choice(WORDS, size=40)) + "\n# done"
            spans = (Span(len(text) - 6, len(text), "token_class", "comment"),)
            examples.append(Example(f"{tag}{group}:{part}", text, f"{tag}{group}", {"package": f"{package}{group % 2}"}, spans))
    return examples
