"""What generation costs with an edit beside generation without one, on the demo model: interleaved rounds, medians of the ratios within a round.

Goal: <= 1.10 x plain generation for an SAE with thresholds. Run: `python benchmarks/steer.py [ROUNDS]`; writes results/steer.json.
Every pair gets the same prompt, number of tokens and rows; where the text ends early, the round is measured per token. One thread, and its processor
time: a step of this model is too short for several, and other work on the machine then counts little.
"""

import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sparselight as sl
from sparselight import __version__
from sparselight.intervene import edit_functions
from sparselight.pipeline.engine import machine
from sparselight.records import Edit, Where
from sparselight.sae import Sae

RESULT = Path(__file__).parent / "results" / "steer.json"
GOAL_RATIO = 1.10
SITE, PROMPT = "resid_post.2", "def read_lines(path, encoding):\n    "
N_TOKENS, N_LATENTS, L0 = 32, 2048, 32
N_EDITS, N_MEASURED = 200, 10


def dictionary(d_in: int, k: int | None = None) -> Sae:
    """An SAE with random directions that fires about L0 latents a token; cost does not depend on what it has learned."""
    generator = torch.Generator().manual_seed(0)
    sae = Sae(d_in, N_LATENTS, k=k).requires_grad_(False)
    directions = torch.nn.functional.normalize(torch.randn(N_LATENTS, d_in, generator=generator), dim=1)
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_(directions.T)
    if k is None:
        sae.threshold.fill_(2.0)
    return sae


def edits(sae: Sae, n_latents: int, where: str = "counted") -> dict[str, Any]:
    return edit_functions(Edit(site=SITE, latents=list(range(n_latents)), operation="clamp", amount=0.5, where=Where(tokens=where)), sae)


def cases(subject: Any) -> dict[str, tuple[Callable[[], int], Callable[[], int]]]:
    """Name to plain and edited generation; each returns how many tokens it wrote."""
    sae, topk = dictionary(subject.d_site(SITE)), dictionary(subject.d_site(SITE), L0)

    def ours(functions: Any, n_rows: int = 1) -> int:
        return sum(len(row.token_ids) for row in subject.generate_many([PROMPT] * n_rows, N_TOKENS, functions, 1.0, list(range(n_rows))))

    ids = torch.tensor([subject._tokens.prompt(PROMPT).ids.tolist()])
    settings = {"max_new_tokens": N_TOKENS, "min_new_tokens": N_TOKENS, "do_sample": False, "pad_token_id": 0}

    def hugging_face(functions: Any) -> int:
        if functions is None:
            return subject.model.generate(ids, **settings).shape[1] - ids.shape[1]
        with sl.editing(subject, functions) as model:
            return model.generate(ids, **settings).shape[1] - ids.shape[1]

    variants = {
        "one latent": (ours, edits(sae, 1)), "one latent, generated tokens": (ours, edits(sae, 1, "generated")), "16 latents": (ours, edits(sae, 16)),
        "one latent of a TopK SAE": (ours, edits(topk, 1)), "one latent, 32 rows": (functools.partial(ours, n_rows=32), edits(sae, 1)),
        "one latent, model.generate in a session": (hugging_face, edits(sae, 1)),
        "one latent, generated tokens, model.generate in a session": (hugging_face, edits(sae, 1, "generated")),
    }
    return {name: (functools.partial(run, None), functools.partial(run, functions)) for name, (run, functions) in variants.items()}


def seconds_a_token(run: Callable[[], int]) -> float:
    began = time.process_time()
    n = run()
    return (time.process_time() - began) / n


def in_turn(plain: Callable[[], int], edited: Callable[[], int], edited_first: bool) -> tuple[float, float]:
    """Seconds a token of both; which goes first changes from round to round."""
    first = {run: seconds_a_token(run) for run in ((edited, plain) if edited_first else (plain, edited))}
    return first[plain], first[edited]


def many_edits(subject: Any) -> dict[str, float]:
    """Seconds for N_EDITS different edits of one prompt: together, and one after another."""
    sae = dictionary(subject.d_site(SITE))
    functions = [
        edit_functions(Edit(site=SITE, latents=[latent], operation="clamp", amount=0.5, where=Where(tokens="generated")), sae) for latent in range(N_EDITS)
    ]

    def seconds(run: Callable[[], Any]) -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    together = seconds(lambda: subject.generate_many([PROMPT] * N_EDITS, N_TOKENS, functions))
    alone = seconds(lambda: [subject.generate_many([PROMPT], N_TOKENS, own) for own in functions[:N_MEASURED]])
    return {"together_s": round(together, 3), "one_by_one_s": round(alone * N_EDITS / N_MEASURED, 3), "n_edits": N_EDITS}


def main(n_rounds: int) -> None:
    torch.set_num_threads(1)
    subject = sl.load_subject("demo")
    pairs = cases(subject)
    for plain, edited in pairs.values():
        plain()
        edited()
    rounds = [{name: in_turn(plain, edited, number % 2 == 1) for name, (plain, edited) in pairs.items()} for number in range(n_rounds)]
    ratios = {name: statistics.median(row[name][1] / row[name][0] for row in rounds) for name in pairs}
    result = {
        "machine": machine(), "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": str(torch.__version__),
        "sparselight": __version__, "n_rounds": n_rounds, "n_tokens": N_TOKENS, "n_latents": N_LATENTS, "site": SITE,
        "plain_ms_a_token": {name: round(1000 * statistics.median(row[name][0] for row in rounds), 4) for name in pairs},
        "ratio": {name: round(ratio, 3) for name, ratio in ratios.items()}, "goal_ratio": GOAL_RATIO, "many_edits": many_edits(subject),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name, ratio in ratios.items():
        print(f"{name:<60} {result['plain_ms_a_token'][name]:8.3f} ms a token   x {ratio:.3f}")
    print(f"{N_EDITS} edits of one prompt: {result['many_edits']['together_s']} s together, {result['many_edits']['one_by_one_s']} s one by one")
    print(f"goal: an edit costs <= {GOAL_RATIO} x: {'reached' if ratios['one latent'] <= GOAL_RATIO else 'MISSED'}; written to {RESULT}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
