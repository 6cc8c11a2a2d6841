"""Which way of choosing a domain's training data serves best: by files that are known to be of it, by retrieval, at random, or the seeds alone.

All ways choose from one pool (the demo run's general training text and more files of the three domains) up to one budget of tokens, seeds included; their
rows of one store are then trained on, so that nothing is harvested again. What comes of it is judged on held-out files of the domain, by name: no way
of choosing has a hand in what is measured. Vectors of the dense way are the subject's own, averages of stored activations; TracIn takes the gradients of
the same seed's general SAE.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from studies.boost.variants import FINETUNE_LR, Work
from studies.common.benches import DOMAIN_TOKENS, STDLIB_DOMAINS, is_of_domain
from studies.common.results import Row
from torch import Tensor

from sparselight.corpus import ListCorpus
from sparselight.protocols import Example
from sparselight.sae import Sae, stitch
from sparselight.select import SelectConfig, find_seeds, select_examples
from sparselight.store import FolderStore, merge
from sparselight.store.plan import MANIFEST
from sparselight.train import TrainConfig, influence, train_sae

TRAINED_SHARE = 2 / 3  # of the tokens that the Boost study trains on a domain: there are many trainings
STRATEGIES = ("general", "seeds", "bm25", "dense", "bm25+tracin", "dense+tracin", "files")
READ_ROWS = 65_536


@dataclass(frozen=True)
class Pool:
    """A store with the texts of its examples."""

    store: FolderStore
    corpus: ListCorpus
    site: str

    @cached_property
    def number(self) -> dict[str, int]:
        return {example.id: index for index, example in enumerate(self.corpus)}

    @cached_property
    def sizes(self) -> Int[np.ndarray, " example"]:
        return np.bincount(self.store.tokens().column("example").to_numpy(), minlength=len(self.corpus))

    @cached_property
    def vectors(self) -> Float[np.ndarray, "example d_in"]:
        """Mean activation of each example."""
        number = torch.from_numpy(self.store.tokens().column("example").to_numpy().astype(np.int64))
        sums = torch.zeros(len(self.corpus), self.store.manifest.sites[self.site])
        for start in range(0, self.store.n_tokens, READ_ROWS):
            rows = np.arange(start, min(start + READ_ROWS, self.store.n_tokens))
            sums.index_add_(0, number[rows], self.store.read(rows, self.site))
        return (sums / torch.from_numpy(self.sizes).clamp(min=1)[:, None]).numpy()

    def of(self, examples: Sequence[Example]) -> list[int]:
        return [self.number[example.id] for example in examples]

    def activations(self, examples: Sequence[Example]) -> Iterator[Float[Tensor, "token d_in"]]:
        for example in examples:
            yield self.store.read(self.store.rows_of([example.id]), self.site)


@lru_cache(maxsize=1)
def open_pool(work: Work) -> Pool:
    """General training text and all training text of the domains, each example once."""
    bench, place = work.bench, work.folder / "data" / "pool"
    parts = [bench.general.train, *(sides.train for sides in bench.domains.values())]
    store = FolderStore.open(place) if (place / MANIFEST).exists() else merge(parts, place)
    examples = [bench.examples[identifier] for identifier in store.examples().column("id").to_pylist()]
    return Pool(store, ListCorpus(examples, "the pool"), bench.site)


def choose(pool: Pool, domain: str, strategy: str, base: Sae, budget: int) -> list[int]:
    """Examples of the pool that a strategy trains on."""
    seeds = STDLIB_DOMAINS[domain][0]
    config = SelectConfig(seeds=seeds, max_tokens=budget)
    if strategy in ("general", "seeds", "files"):
        inside = find_seeds(pool.corpus.examples, config).inside
        rest = np.random.default_rng(0).permutation(len(pool.corpus)).tolist()
        first = [] if strategy == "general" else inside
        more = [] if strategy == "seeds" else [index for index in rest if strategy == "general" or is_of_domain(pool.corpus[index].group, domain)]
        order = list(dict.fromkeys([*first, *more]))
        return order[: int(np.searchsorted(np.cumsum(pool.sizes[order]), budget, side="right"))]
    retrieve, _, rerank = strategy.partition("+")
    settings = {"seeds": list(seeds), "max_tokens": budget, "retrieve": [retrieve], **({"rerank": "tracin", "sae": "the general SAE"} if rerank else {})}
    config = SelectConfig.parse(settings, "select")
    sources = [pool.corpus[index] for index in find_seeds(pool.corpus.examples, config).inside]

    def by_influence(examples: Sequence[Example]) -> Float[np.ndarray, " example"]:
        return influence(base, pool.activations(examples), pool.activations(sources)).numpy()

    return select_examples(
        pool.corpus, config, lambda examples: pool.sizes[pool.of(examples)].tolist(), vectors=lambda examples: pool.vectors[pool.of(examples)],
        influence=by_influence if rerank else None).examples


def compare_selections(work: Work, domain: str, seed: int) -> list[Row]:
    """Fine-tuning and a residual SAE on each selection."""
    base, pool = work.base(seed), open_pool(work)
    budget, truth = min(DOMAIN_TOKENS, pool.store.n_tokens // 4), np.array([is_of_domain(example.group, domain) for example in pool.corpus])
    rows: list[Row] = [{"domain": domain, "variant": "base", "strategy": "none", "values": work.measured(base, domain)}]
    for strategy in STRATEGIES:
        chosen = choose(pool, domain, strategy, base, budget)
        own, sizes = pool.store.rows_of([pool.corpus[index].id for index in chosen]), pool.sizes[chosen]
        quality = {"selected_tokens": float(sizes.sum()), "precision": float(sizes[truth[chosen]].sum() / sizes.sum())}
        folder = work.seed_folder(seed) / domain / "selection" / strategy.replace("+", "_")
        for variant, sae in train_on(work, seed, base, pool, own, folder).items():
            rows.append({"domain": domain, "variant": variant, "strategy": strategy, "values": {**quality, **work.measured(sae, domain)}})
    return rows


def train_on(work: Work, seed: int, base: Sae, pool: Pool, rows: Int[np.ndarray, " row"], folder: Path) -> dict[str, Sae]:
    """The general SAE fine-tuned on some rows, and with a residual SAE for them."""
    bench, subject = work.bench, pool.store.manifest.subject
    common = {"n_tokens": int(TRAINED_SHARE * bench.domain_tokens), "batch_tokens": bench.base["batch_tokens"], "seed": seed, "data_seed": seed,
              "device": bench.base["device"]}
    tuned = TrainConfig.parse({**common, "k": bench.base["k"] + bench.new["k"], "lr": FINETUNE_LR}, "train")
    added = TrainConfig.parse({**common, "n_latents": bench.new["n_latents"], "k": bench.new["k"]}, "train")
    return {"finetune": train_sae(pool.store, rows, bench.site, tuned, folder / "finetune", subject, init=base),
            "boost": stitch(base, train_sae(pool.store, rows, bench.site, added, folder / "boost", subject, base))}
