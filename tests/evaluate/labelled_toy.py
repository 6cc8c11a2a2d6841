"""A subject whose activations are planted: what a word says is what its vector holds, so that codes, labels and effects are known."""

import re

import torch

from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.findings import Findings
from sparselight.protocols import Batch, Codes, Example, Span
from sparselight.records import SubjectRef, TokenPolicy

HERE, LATER = "resid_post.0", "resid_post.1"


class PlantedSubject:
    """Words name coordinates: `c0 c3` has the vectors e_0 and e_3; other words are 0. The later site is MIX applied to that (linear), or its tanh."""

    name, device, fingerprint = "planted", torch.device("cpu"), "f" * 64

    def __init__(self, d=8, nonlinear=False):
        self.d, self.nonlinear = d, nonlinear
        self.mix = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1)))[0]
        self.n_passes = 0

    def ref(self):
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=TokenPolicy(prepend_bos=False, context_tokens=64))

    def sites(self):
        return [HERE, LATER]

    def d_site(self, site):
        return self.d

    def n_tokens(self, examples):
        return [len(example.text.split()) for example in examples]

    def prepare(self, examples):
        columns, rows = [], []
        for number, example in enumerate(examples):
            found = [(int(m[0][1:]) + 1 if re.fullmatch(r"c\d+", m[0]) else 0, m.start(), m.end()) for m in re.finditer(r"\S+", example.text)]
            columns += [(number, position, *word) for position, word in enumerate(found)]
            rows.append([word[0] for word in found])
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
        return Batch(ids, mask, mask.clone(), *torch.tensor(columns).T)

    def token_text(self, token_id):
        return f"c{token_id - 1}"

    def after(self, x):
        return torch.tanh(x @ self.mix) if self.nonlinear else x @ self.mix

    def capture(self, batch, sites):
        self.n_passes += 1
        x = torch.cat([torch.zeros(1, self.d), torch.eye(self.d)])[batch.token_id]
        return {site: x if site == HERE else self.after(x) for site in sites}

    @torch.no_grad()
    def predict(self, batch, edits=None):
        self.n_passes += 1
        x = torch.cat([torch.zeros(1, self.d), torch.eye(self.d)])[batch.token_id]
        for site in (HERE, LATER):
            x = self.after(x) if site == LATER else x
            x = edits[site](x) if edits and site in edits else x
        return x

    loss = None


class Basis(torch.nn.Module):
    """Latent f is coordinate order[f]; exact on the planted vectors."""

    def __init__(self, d=8, order=None, only=None):
        super().__init__()
        order = list(range(d)) if order is None else list(order)
        self.d_in, self.n_latents = d, len(order)
        self.W_dec = torch.nn.Parameter(torch.eye(d)[order])
        self.only = only

    def encode(self, x):
        dense = (x @ self.W_dec.detach().T).clamp(min=0)
        dense = torch.where(dense > 1e-6, dense, 0.0)
        if self.only is not None:
            dense[:, [f for f in range(self.n_latents) if f not in self.only]] = 0
        token, latent = dense.nonzero(as_tuple=True)
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(token, minlength=len(x)).cumsum(0)])
        return Codes(dense[token, latent], latent, indptr, self.n_latents)

    def decode(self, codes):
        return codes.to_dense() @ self.W_dec.detach()

    def reconstruct(self, x):
        return self.decode(self.encode(x))


class NoCodes:
    def reconstruct(self, x):
        return x


def example(number, words, labels, side, spans=()):
    return Example(f"{side}{number}", " ".join(words), f"{side}-group{number // 2}", dict(labels), tuple(spans))


def case_of(fit, held_out, subject=None, **more):
    config = CaseConfig(n_tokens=10**6, n_bootstrap=40, **more)
    return Case(HERE, {"toy": Dataset("toy", fit, held_out)}, config, subject or PlantedSubject())


def contenders(**coders):
    return {name: Contender(coder, is_control=False) for name, coder in coders.items()}


def measured(measure, case, coders, config):
    findings = Findings()
    measure(case, coders, config, findings)
    return findings


def values(findings, coder):
    """Value of every (metric, setting) of one coder."""
    found = {(cell.metric, cell.setting): float(value[0]) for cell, value in findings.resampled.items() if cell.coder == coder}
    return found | {(cell.metric, cell.setting): value.value for cell, value in findings.values.items() if cell.coder == coder}


def span(text, word, name, value):
    start = text.index(word)
    return Span(start, start + len(word), name, value)
