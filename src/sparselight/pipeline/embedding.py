"""One vector a text for dense retrieval, from the subject itself or from an encoder, kept on disk for the next selection.

Owns: which model makes the vectors and at which site, batches, and the cache: float32 safetensors files in a folder, named by model, site and texts,
with a faiss index beside them where select.search asks for faiss.
Refuses, each with its setting: an encoder that cannot be loaded or pools in an unknown way.
"""

import hashlib
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import load_file, save_file

from sparselight.config import canonical_json
from sparselight.errors import ConfigError, SubjectError
from sparselight.files import atomic_path
from sparselight.protocols import Example, Progress, no_progress
from sparselight.select import SelectConfig
from sparselight.select.dense import save_index
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, load_subject
from sparselight.subjects.batching import batches_by_length
from sparselight.subjects.encoder import POOLED

BATCH_TOKENS = 8192  # positions in one pass
CHARS_A_TOKEN = 4  # roughly: only for batches of texts of like length
PROBE_CHARS = 40_000  # of texts that an estimate embeds: seconds of work
MIN_CACHED = 256  # texts: fewer are embedded sooner than a file is worth it
MEAN_POOLED = ("facebook/contriever", "facebook/contriever-msmarco", "facebook/mcontriever", "facebook/mcontriever-msmarco")
"""Encoders without sentence-transformers files whose authors say how they pool (arXiv 2112.09118): the mean over tokens."""


class TextVectors:
    """Vectors of examples, as `select.Vectors`.

    Args:
        subject: the model under study, used where select.encoder = "subject".
        site: where its activations are taken.
        folder: of the cache; without one nothing is kept.
    """

    def __init__(self, config: SelectConfig, subject: HuggingFaceSubject, site: str, folder: Path | None = None, progress: Progress = no_progress):
        self.config, self.subject, self.folder, self.progress = config, subject, folder, progress
        self.site = site if config.encoder == "subject" else POOLED
        self._last: tuple[str, Float[np.ndarray, "example d"]] | None = None

    @cached_property
    def encoder(self) -> HuggingFaceSubject:
        return self.subject if self.config.encoder == "subject" else load_encoder(self.config, str(self.subject.device))

    def __call__(self, examples: Sequence[Example]) -> Float[np.ndarray, "example d"]:
        if len(examples) < MIN_CACHED:
            return embed(self.encoder, examples, self.site, self.progress)
        key = self._key(examples)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._cached(key, examples))
        return self._last[1]

    def expected_seconds(self, examples: Sequence[Example]) -> float:
        """Of making the vectors of these examples, by those of a few drawn evenly; 0 where they are kept already."""
        if not examples or (self.folder is not None and self._path(self._key(examples)).is_file()):
            return 0.0
        policy = self.encoder.ref().token_policy
        most = policy.context_tokens * CHARS_A_TOKEN if policy.pooling != "none" or policy.long_examples == "cut" else np.inf  # what a pass sees of a text
        sizes = np.minimum([1 + len(example.text) for example in examples], most)
        order = np.random.default_rng(0).permutation(len(examples))
        drawn = order[:1 + int(np.searchsorted(np.cumsum(sizes[order]), PROBE_CHARS))]
        embed(self.encoder, [examples[drawn[0]]], self.site)  # the first pass is slower than others
        began = time.perf_counter()
        embed(self.encoder, [examples[index] for index in drawn], self.site)
        return (time.perf_counter() - began) * float(sizes.sum() / sizes[drawn].sum())

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key[:16]}.safetensors"

    def save_index(self, examples: Sequence[Example]) -> None:
        """A faiss index of these examples beside their vectors, row by row, where vectors are kept (select.search = "faiss")."""
        if self.folder is None or len(examples) < MIN_CACHED:
            return
        path = self.folder / f"{self._key(examples)[:16]}.faiss"
        if not path.is_file():
            save_index(self(examples), self.config, path)

    def _cached(self, key: str, examples: Sequence[Example]) -> Float[np.ndarray, "example d"]:
        path = None if self.folder is None else self._path(key)
        if path is not None and path.is_file():
            try:
                vectors: Float[np.ndarray, "example d"] = load_file(path)["vectors"]
                return vectors
            except Exception:  # a damaged cache is made again; safetensors' errors have no common class
                path.unlink()
        vectors = embed(self.encoder, examples, self.site, self.progress)
        if path is not None:
            with atomic_path(path) as temporary:
                save_file({"vectors": vectors}, temporary)
        return vectors

    def _key(self, examples: Sequence[Example]) -> str:
        digest = hashlib.sha256(canonical_json([self.encoder.fingerprint, self.site]).encode())
        for example in examples:
            text = example.text.encode(errors="surrogatepass")
            digest.update(len(text).to_bytes(8, "big") + text)
        return digest.hexdigest()


@torch.no_grad()
def embed(subject: HuggingFaceSubject, examples: Sequence[Example], site: str, progress: Progress = no_progress) -> Float[np.ndarray, "example d"]:
    """Mean over an example's counted tokens of the activations at a site; at `pooled`, the one vector that the encoder makes. 0 where no token counts."""
    vectors = np.zeros((len(examples), subject.d_site(site)), dtype=np.float32)
    policy = subject.ref().token_policy
    if policy.pooling != "none":  # an example counts as one token there, so lengths are estimated
        sizes = [min(1 + len(example.text) // CHARS_A_TOKEN, policy.context_tokens) for example in examples]
        groups = batches_by_length(sizes, BATCH_TOKENS)
    else:
        sizes = subject.n_tokens(examples)
        groups = batches_by_length(sizes, BATCH_TOKENS, policy)
    done, total = 0, sum(sizes)
    for group in groups:
        batch = subject.prepare([examples[index] for index in group])
        x, example = subject.capture(batch, [site])[site].cpu(), batch.example
        sums = torch.zeros(len(group), x.shape[1]).index_add_(0, example, x)
        vectors[group] = (sums / torch.bincount(example, minlength=len(group)).clamp(min=1)[:, None]).numpy()
        done += sum(sizes[index] for index in group)
        progress(done, total, "vectors")
    return vectors


def load_encoder(config: SelectConfig, device: str) -> HuggingFaceSubject:
    """The encoder of select.encoder.

    Raises:
        ConfigError: when it cannot be loaded or pools in a way that is not known.
    """
    pooling = "mean" if config.encoder_pooling == "auto" and config.encoder in MEAN_POOLED else config.encoder_pooling
    try:
        return load_subject(SubjectConfig(source=config.encoder, kind="encoder", pooling=pooling, device=device))
    except SubjectError as err:
        raise ConfigError(asked=f"select by vectors of select.encoder = {config.encoder!r}", why=f"it cannot {err.asked}: {err.why}",
                          instead=err.instead.replace("subject.pooling", "select.encoder_pooling").replace("subject.source", "select.encoder")) from None
