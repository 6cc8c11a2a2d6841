"""A catalogue of every latent: 16,384 latents over a million stored tokens, statistical explainer and controls included, and how fast a card is found.

The store holds texts of words drawn by Zipf's law, and activations in which each word has a direction and so has the word before it; the SAE has those
directions among random ones, and one threshold that gives the asked l0. So every stage has real work: explanations are found, contexts differ. Measured
in a process of its own, loading left out: wall and CPU seconds of the whole and of the reading of the store, what the encoder alone takes (which any
library would spend too), the peak of memory; then, in the written file, a card's query and a search.
The libraries that do the like (SAEDashboard, delphi) pin CUDA builds of PyTorch or vLLM, so ours stands alone.
Run: `python benchmarks/catalogue.py [--latents 16384] [--tokens 1000000] [--small]`; writes results/catalogue.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparselight import __version__
from sparselight.interpret import Catalogue, ExplainConfig, TokenSet, write_catalogue
from sparselight.interpret.explain import iter_cards
from sparselight.pipeline.engine import machine
from sparselight.protocols import Example
from sparselight.sae import Sae

RESULT = Path(__file__).parent / "results" / "catalogue.json"
SITE, N_WORDS, WORDS_AN_EXAMPLE, HELD_OUT_EVERY = "resid_post.0", 8000, 128, 5
GOAL = {"wall_s": 240, "memory_mb": 2000, "card_ms": 20}


class ZipfStore:
    """Activations of texts of words: the word's own direction, half of the word before, and noise; made block by block, the same at every read."""

    def __init__(self, n_tokens: int, d: int, directions: torch.Tensor, seed: int):
        import pyarrow as pa

        rng = np.random.default_rng(seed)
        n_examples = n_tokens // WORDS_AN_EXAMPLE
        ranks = 1 / np.arange(1, N_WORDS + 1)
        self.words = rng.choice(N_WORDS, size=n_examples * WORDS_AN_EXAMPLE, p=ranks / ranks.sum())
        self.d, self.directions, self.seed, self.n_tokens = d, directions, seed, len(self.words)
        self.position = np.tile(np.arange(WORDS_AN_EXAMPLE), n_examples)
        names = [f"w{number:04}" for number in range(N_WORDS)]  # five characters and a space each
        texts = (" ".join(names[word] for word in part) for part in self.words.reshape(n_examples, -1))
        self.given = [Example(f"{seed}:{number}", text, f"{seed}:{number // 4}") for number, text in enumerate(texts)]
        self.table = pa.table({"example": np.repeat(np.arange(n_examples), WORDS_AN_EXAMPLE), "position": self.position, "token_id": self.words,
                               "char_start": self.position * 6, "char_end": self.position * 6 + 5})

    def tokens(self) -> Any:
        return self.table

    def examples(self) -> Any:
        import pyarrow as pa

        return pa.table({"example": range(len(self.given)), "id": [example.id for example in self.given], "group": [example.group for example in self.given]})

    def read(self, rows: np.ndarray, site: str) -> torch.Tensor:
        assert site == SITE
        before = np.where(self.position[rows] > 0, self.words[rows - 1], self.words[rows])
        noise = torch.randn(len(rows), self.d, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + int(rows[0])))
        return 3 * self.directions[self.words[rows]] + 1.5 * self.directions[before] + noise / 4

    def token_set(self) -> TokenSet:
        return TokenSet("general", self, np.arange(self.n_tokens), {example.id: example for example in self.given})  # type: ignore[arg-type]


class WordSubject:
    """Says what a token reads."""

    def token_text(self, token_id: int) -> str:
        return f" w{token_id:04}"


def planted_sae(n_latents: int, d: int, l0: int, x: torch.Tensor, directions: torch.Tensor) -> Sae:
    """An SAE whose first latents are the words' directions, the rest random, with one threshold."""
    rows = torch.nn.functional.normalize(torch.randn(n_latents, d, generator=torch.Generator().manual_seed(2)))
    rows[: min(n_latents, N_WORDS)] = directions[:n_latents]
    sae = Sae(d, n_latents)
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        pre = sae.pre_activations(x)
        sae.threshold.fill_(float(pre.flatten().kthvalue(pre.numel() - l0 * len(x)).values))
    return sae


def encode_seconds(sae: Sae, store: ZipfStore) -> float:
    """CPU seconds to encode the whole store once, from a tenth of it; reading left out."""
    x = store.read(np.arange(min(store.n_tokens, 8192 * 8)), SITE)
    sae.encode(x[:8192])
    began = time.process_time()
    for chunk in x.split(8192):
        sae.encode(chunk)
    return (time.process_time() - began) * store.n_tokens / len(x)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement, in this process."""
    torch.set_num_threads(options.threads)
    directions = torch.nn.functional.normalize(torch.randn(N_WORDS, options.d, generator=torch.Generator().manual_seed(1)))
    held_out = options.tokens // HELD_OUT_EVERY
    stores = [ZipfStore(options.tokens - held_out, options.d, directions, 1), ZipfStore(held_out, options.d, directions, 2)]
    sae = planted_sae(options.latents, options.d, options.l0, stores[0].read(np.arange(256), SITE), directions)
    encode = sum(encode_seconds(sae, store) for store in stores)
    config = ExplainConfig(controls=("random_latent", "raw_neuron"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    marks: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        cards = iter_cards({"base": sae}, [stores[0].token_set()], [stores[1].token_set()], SITE, WordSubject(), config, Path(folder),  # type: ignore[arg-type]
                           lambda _done, _total, note: marks.append((note, time.process_time())))
        path = write_catalogue(cards, Path(folder))
        result = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        result |= {"reading_cpu_s": next(at for note, at in reversed(marks) if note.startswith("reading")) - cpu, "encoder_cpu_s": encode,
                   "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "memory_before_mb": before,
                   "file_mb": path.stat().st_size / 1e6, "activations_mb": sum(file.stat().st_size for file in Path(folder).rglob("*.parquet")) / 1e6}
        result |= queries(path, options.latents)
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def queries(path: Path, n_latents: int) -> dict[str, Any]:
    """Milliseconds of a card, of a search in all explanations, and of opening the file; and what the cards say."""
    began = time.perf_counter()
    catalogue = Catalogue(path)
    opened = 1000 * (time.perf_counter() - began)
    wanted = np.random.default_rng(0).integers(0, n_latents, 101).tolist()
    cards = [timed(lambda latent=latent: catalogue.card("base", latent)) for latent in wanted]
    search = [timed(lambda: catalogue.search("w0042", grade="B", limit=20)) for _ in range(11)]
    grades = {row["grade"]: row["n"] for row in catalogue.sql("SELECT grade, count(*) AS n FROM cards GROUP BY grade ORDER BY grade").to_pylist()}
    return {"open_ms": opened, "card_ms": statistics.median(cards), "card_p95_ms": float(np.quantile(cards, 0.95)), "search_ms": statistics.median(search),
            "grades": grades}


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def main(options: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    told = json.dumps({**vars(options), "out": str(options.out)})
    done = subprocess.run([sys.executable, __file__, "--worker", told], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    measured = json.loads(done.stdout.splitlines()[-1])
    return {"machine": machine(), "torch": str(torch.__version__), "sparselight": __version__, "threads": options.threads, "load_before": round(load, 2),
            "n_latents": options.latents, "n_tokens": options.tokens, "d": options.d, "l0": options.l0, "goal": GOAL, **measured}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=256)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--small", action="store_true", help="see that it works: little data, no useful numbers")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(argparse.Namespace(**json.loads(options.worker)))))
        sys.exit()
    if options.small:
        options.latents, options.tokens, options.d = 2048, 50_000, 64
    result = main(options)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['n_latents']:,} latents, {result['n_tokens']:,} tokens: {result['wall_s']:.0f} s ({result['cpu_s']:.0f} s CPU, of which the encoder "
          f"{result['encoder_cpu_s']:.0f}), {result['memory_mb']:.0f} MB; a card in {result['card_ms']:.1f} ms; written to {options.out}")
