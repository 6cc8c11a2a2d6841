"""A subject without a model: tokens are the words of a text, activations a closed form of word, position and site."""

import re
import zlib

import torch

from sparselight.protocols import Batch, Example
from sparselight.records import SubjectRef, TokenPolicy


class ToySubject:
    """Rows hold up to 6 words after a BOS; a longer example goes on in a further row."""

    name = "toy"
    device = torch.device("cpu")

    def __init__(self, fingerprint="f" * 64, before_capture=None, scale=1.0):
        self.fingerprint, self.before_capture, self.scale = fingerprint, before_capture, scale
        self.policy = TokenPolicy(prepend_bos=True, context_tokens=7)
        self.batches, self.n_captured = [], 0

    def ref(self):
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=self.policy)

    def sites(self):
        return ["resid_post.0", "resid_post.1"]

    def d_site(self, site):
        return {"resid_post.0": 8, "resid_post.1": 12}[site]

    def n_tokens(self, examples):
        return [len(re.findall(r"\S+", example.text)) for example in examples]

    def prepare(self, examples):
        columns, rows = [], []
        for number, example in enumerate(examples):
            words = [(zlib.crc32(match[0].encode()) % 1000 + 1, match.start(), match.end()) for match in re.finditer(r"\S+", example.text)]
            columns += [(number, position, *word) for position, word in enumerate(words)]
            rows += [[0, *(word[0] for word in words[start:start + 6])] for start in range(0, len(words), 6)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        counts = mask.clone()
        counts[:, 0] = False
        self.batches.append(mask.numel())
        return Batch(ids, mask, counts, *torch.tensor(columns).T)

    def capture(self, batch, sites):
        self.n_captured += 1
        if self.before_capture:
            self.before_capture(self.n_captured)
        return {site: self.scale * self.activation(batch.token_id, batch.position, site) for site in sites}

    def activation(self, token_id, position, site):
        frequency = torch.arange(1, self.d_site(site) + 1, dtype=torch.float64)
        return torch.sin(token_id[:, None] * frequency + position[:, None] * 0.37).float()


def toy_examples(n=23, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 15, (n,), generator=generator).tolist()
    return [
        Example(f"doc{i}", " ".join(f"w{int(torch.randint(0, 50, (1,), generator=generator))}" for _ in range(length)), f"file{i // 3}")
        for i, length in enumerate(lengths)
    ]
