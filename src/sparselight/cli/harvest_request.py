"""What `harvest` and `store append` are asked for: corpus, subject and sites, from a recipe and the command line; and what it would cost.

Refuses: a setting of another table, a harvest without a site (it names those of the subject).
"""

import time
from typing import Any

from sparselight.config import Config, apply_overrides, load_toml
from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.errors import ConfigError
from sparselight.pipeline.recipe import find_recipe
from sparselight.protocols import Progress
from sparselight.records import Part
from sparselight.store import FolderStore, HarvestConfig, append, harvest
from sparselight.store.formats import value_bytes
from sparselight.store.place import StagedFolder
from sparselight.store.plan import make_plan
from sparselight.store.writer import finished_shard
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, batches_by_length, load_subject

TOKEN_BYTES = 10  # a row of the token table and its checksum, about
PROBE_TOKENS = 2048


class HarvestTables(Config):
    """The tables of a recipe that a harvest reads."""

    corpus: CorpusConfig = CorpusConfig()
    subject: SubjectConfig = SubjectConfig()
    harvest: HarvestConfig = HarvestConfig()


class HarvestEstimate(Part):
    """What a harvest would do."""

    store: str
    sites: dict[str, int]
    dtype: str
    n_examples: int
    n_tokens: int
    n_shards: int
    n_shards_finished: int
    n_bytes: int
    """Of the whole store."""
    tokens_per_s: float
    """Of a short probe on this machine."""
    seconds: float
    """For what is not finished yet."""


class HarvestRequest:
    """A harvest ready to run."""

    def __init__(self, tables: HarvestTables, sites: list[str], max_tokens: int | None):
        self.tables, self.config = tables, tables.harvest
        self.subject: HuggingFaceSubject = load_subject(tables.subject)
        if not sites:
            names = [site for site in self.subject.sites() if site.startswith("resid_post.")] or self.subject.sites()
            raise ConfigError(asked="harvest without a site", why="neither --site nor harvest.site names one",
                              instead=f"give --site, for example {names[len(names) // 2]} (from {names[0]} to {names[-1]})")
        self.sites = {site: self.subject.d_site(site) for site in dict.fromkeys(sites)}
        corpus = load_corpus(tables.corpus)
        self.corpus: ListCorpus = corpus if max_tokens is None else corpus.sample(max_tokens, self.subject.n_tokens, tables.corpus.seed)

    def run(self, store: str, progress: Progress) -> FolderStore:
        return harvest(self.subject, self.corpus.examples, list(self.sites), store, self.config, self.corpus.fingerprint(), progress)

    def append(self, store: str, progress: Progress) -> FolderStore:
        return append(self.subject, self.corpus.examples, store, self.config, self.corpus.fingerprint(), progress)

    def estimate(self, store: str) -> HarvestEstimate:
        """Count the tokens, look at what stands there already, and time a short forward pass."""
        counts = self.subject.n_tokens(self.corpus.examples)
        plan = make_plan(self.subject, self.corpus.examples, counts, list(self.sites), self.config, self.corpus.fingerprint())
        place = StagedFolder(store)
        finished = [shard for shard in plan.shards if place.remote is None and finished_shard(place, shard) is not None]
        rate = self._probe(counts)
        row_bytes = sum(self.sites.values()) * value_bytes(self.config.dtype) + TOKEN_BYTES
        left = plan.n_tokens - sum(shard.n_tokens for shard in finished)
        return HarvestEstimate(store=store, sites=self.sites, dtype=self.config.dtype, n_examples=len(self.corpus), n_tokens=plan.n_tokens,
                               n_shards=len(plan.shards), n_shards_finished=len(finished), n_bytes=plan.n_tokens * row_bytes, tokens_per_s=rate,
                               seconds=left / rate)

    def _probe(self, counts: list[int]) -> float:
        first: list[int] = []
        for number, count in enumerate(counts):
            if count:
                first.append(number)
            if sum(counts[index] for index in first) >= PROBE_TOKENS:
                break
        group = next(batches_by_length([counts[index] for index in first], self.config.batch_tokens, self.subject.ref().token_policy))
        batch = self.subject.prepare([self.corpus[first[index]] for index in group])
        self.subject.capture(batch, list(self.sites))
        began = time.perf_counter()
        self.subject.capture(batch, list(self.sites))
        return batch.n_tokens / max(time.perf_counter() - began, 1e-9)


def read_tables(recipe: str | None, corpus: str | None, subject: str | None, overrides: list[str]) -> tuple[HarvestTables, list[str]]:
    """Tables from a recipe, the command line's own options, and overrides, the later ones first; and the sites that they name.

    Raises:
        ConfigError: also when nothing names a corpus.
    """
    content: dict[str, Any] = load_toml(find_recipe(recipe)) if recipe else {}
    data = {name: table for name, table in content.items() if name in HarvestTables.model_fields}
    if corpus is not None:
        data["corpus"] = {"root": corpus} if not recipe else {**data.get("corpus", {}), "root": corpus}
    if subject is not None:
        data["subject"] = {**data.get("subject", {}), "source": subject}
    data = apply_overrides(data, overrides)
    if not isinstance(data.get("corpus", {}), dict) or ("root" not in data.get("corpus", {}) and not recipe):
        raise ConfigError(asked="harvest without a corpus", why="neither --corpus nor --recipe names one",
                          instead="give --corpus PATH (a file, a folder, hf://NAME or `stdlib`)")
    tables = HarvestTables.parse(data)
    return tables, [tables.harvest.site] if "site" in tables.harvest.model_fields_set else []


def request(recipe: str | None, corpus: str | None, subject: str | None, sites: list[str], overrides: list[str], max_tokens: int | None) -> HarvestRequest:
    """The harvest that the options of a verb ask for."""
    tables, named = read_tables(recipe, corpus, subject, overrides)
    return HarvestRequest(tables, sites or named, max_tokens)
