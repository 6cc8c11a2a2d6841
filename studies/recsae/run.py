"""RecSAE on four recommenders and the published one: fidelity, verified concepts beside controls, ablation, debiasing. Run again, it goes on where it stopped.

    python studies/recsae/run.py --data-root DATA                    # all of it: about half an hour on one core
    python studies/recsae/run.py --data-root DATA --quick            # one recommender, one k, few steps: minutes
    python studies/recsae/run.py --data-root DATA --only published   # the published SASRec with its own SAE
    python studies/recsae/collect.py runs/recsae

DATA holds ml-latest-small/ (ratings.csv, movies.csv, tags.csv) and recsae_ml1m/ (SASRec, its SAE, item_ids.tsv). Every step is one file in OUT; delete it to
have it made again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.corpus.interactions.items import ItemTable
from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.evaluate.ranking_fidelity import Ranked
from sparselight.files import write_bytes
from sparselight.interpret.item_concepts import ItemConceptsConfig, concept_dictionary, make_candidates, members_of
from sparselight.intervene.concept_tuning import TuningConfig, tune_concept
from sparselight.intervene.recommendation_balance import balance_curve, popularity_latents, taste_segments
from sparselight.records import LatentConcept
from sparselight.sae import Sae
from sparselight.sae.formats import load_sae
from sparselight.store import HarvestConfig, harvest
from sparselight.subjects import RecommenderConfig, RecommenderSubject, load_rechorus, train_recommender
from sparselight.subjects.recommender.train import popularity_of, ranking_of
from sparselight.train import TrainConfig, train_sae

SITE = "user_vector"
MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {}, "timirec": {}, "bpr_mf": {"loss": "bpr", "batch_rows": 1024}, "lightgcn": {"loss": "bpr", "n_layers": 3, "batch_rows": 2048},
}
KS = (8, 16, 32)
N_TUNED = 4
N_POPULARITY = 20
PUBLISHED = "SASRec_SAE__ML_1MTOPK__emb64_L2_H2__k16_scale32.pt"


@dataclass(frozen=True)
class Request:
    """What is asked for on the command line."""

    out: Path
    data: Path
    quick: bool
    seed: int


@dataclass(frozen=True)
class World:
    """A recommender with its users: those that SAEs and concepts are found on, and others."""

    name: str
    subject: RecommenderSubject
    found_on: ListCorpus
    tested_on: ListCorpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/recsae"))
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", default="", help=f"some of {','.join([*MODELS, 'published'])}")
    parser.add_argument("--k", default="", help="some of 8,16,32")
    parser.add_argument("--quick", action="store_true", help="SASRec and k = 8 alone, a tenth of the training")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    request = Request(chosen.out, chosen.data_root, chosen.quick, chosen.seed)
    names = chosen.only.split(",") if chosen.only else ["sasrec"] if chosen.quick else [*MODELS, "published"]
    ks = [int(k) for k in chosen.k.split(",")] if chosen.k else [8] if chosen.quick else list(KS)
    for name in names:
        if name not in MODELS and name != "published":
            parser.error(f"--only names {name!r}, which is none of {', '.join([*MODELS, 'published'])}")
        world = published_world(request) if name == "published" else trained_world(name, request)
        once(request.out / name / "subject.json", lambda world=world: describe(world))
        for k in ks:
            study(world, k, request)
        if name == "published":
            measure(world, load_sae(request.data / "recsae_ml1m" / PUBLISHED, k=16), request.out / name / "its_own_sae", request)


def movielens(request: Request, **settings: Any) -> ListCorpus:
    return load_corpus(CorpusConfig.parse({"kind": "interactions", "root": str(request.data / "ml-latest-small"),
                                           "interactions": {"min_value": 4.0, **settings}}, "corpus"))


def trained_world(name: str, request: Request) -> World:
    corpus = movielens(request, k_core=5)
    settings = {"architecture": name, "seed": request.seed, **MODELS[name], **({"max_epochs": 3} if request.quick else {})}
    subject = train_recommender(corpus, request.out / name / "subject", RecommenderConfig.parse(settings))
    return World(name, subject, *corpus.split(0.3, request.seed))


def published_world(request: Request) -> World:
    """The SASRec that RecSAE's authors trained on ML-1M, on users of ml-latest-small, which it never saw."""
    files = request.data / "recsae_ml1m"
    corpus = movielens(request, only_items=str(files / "item_ids.tsv"), min_train=4)
    subject = load_rechorus(files / PUBLISHED, files / "item_ids.tsv", n_heads=2, items=ItemTable.from_examples(corpus), name="published SASRec")
    return World("published", subject, *corpus.split(0.3, request.seed))


def describe(world: World) -> dict[str, Any]:
    """How well the recommender ranks, beside popularity."""
    users = [*world.found_on, *world.tested_on]
    histories = [world.subject.history(example) for example in users]
    popular = popularity_of(histories, len(world.subject.items))
    result = {"n_users": len(users), "n_items": len(world.subject.items)}
    for name, scores in (("model", None), ("popularity", popular)):
        value = ranking_of(world.subject, histories, "test", scores)
        result[name] = None if value is None else value.model_dump(mode="json")
    return result


def study(world: World, k: int, request: Request) -> None:
    """One SAE of ours, with everything that is measured of it."""
    folder = request.out / world.name / f"k{k}"
    store = harvest(world.subject, world.found_on.examples, [SITE], request.out / world.name / "store", HarvestConfig(site=SITE, dtype="float32"),
                    world.found_on.fingerprint())
    batch = min(1024, store.n_tokens)
    n_tokens = max(batch, (100_000 if request.quick else 2_000_000))
    config = TrainConfig.parse({"architecture": "topk", "expansion": 16, "k": k, "n_tokens": n_tokens, "batch_tokens": batch, "seed": request.seed,
                                "dead_after_tokens": 20 * batch})
    measure(world, train_sae(store, None, SITE, config, folder, world.subject.ref()), folder, request)


def measure(world: World, sae: Sae, folder: Path, request: Request) -> None:
    """Fidelity, concepts by both protocols, tuning of the most confident concepts, the debiasing curve."""
    subject, users = world.subject, world.tested_on.examples
    suite = EvaluateConfig.parse({"suite": "reconstruction,ranking", "controls": ["untrained", "pca"], "n_bootstrap": 200}, "evaluate")
    case = Case(SITE, {"other users": Dataset("other users", world.found_on.examples, users)}, suite, subject)
    once(folder / "fidelity.json", lambda: run_suite(case, {"sae": Contender(sae, is_control=False)}, suite).model_dump(mode="json"))
    for protocol in ("held_out", "recsae"):
        settings = ItemConceptsConfig.parse({"protocol": protocol, "seed": request.seed})
        once(folder / f"concepts_{protocol}.json",
             lambda settings=settings: concept_dictionary(subject, sae, world.found_on.examples, users, settings).model_dump(mode="json"))
    once(folder / "tuning.json", lambda: tuned(world, sae, folder, 2 if request.quick else N_TUNED))
    for by in ("effect", "slope"):
        once(folder / f"balance_{by}.json", lambda by=by: balanced(world, sae, by))


def tuned(world: World, sae: Sae, folder: Path, n: int) -> list[dict[str, Any]]:
    """The labels that stand for the most latents with a confidence of 0.8, all their latents at once, scaled and added."""
    rows = [LatentConcept.model_validate(row) for row in json.loads((folder / "concepts_held_out.json").read_text())["concepts"]]
    by_label: dict[str, list[LatentConcept]] = {}
    for row in rows:
        if row.route == "label" and row.confidence >= 0.8:
            by_label.setdefault(row.label, []).append(row)
    popular = popularity_of([world.subject.history(example) for example in world.found_on], len(world.subject.items))
    candidates = make_candidates(world.subject.items, popular.numpy())
    results = []
    for found in sorted(by_label.values(), key=lambda found: (-len(found), found[0].label))[:n]:
        for operation, strengths in (("scale", (0.0, 0.5, 1.0, 2.0, 4.0)), ("add", (0.0, 0.1, 0.25, 0.5, 1.0))):
            config = TuningConfig.parse({"operation": operation, "strengths": list(strengths), "n_controls": 3})
            record = tune_concept(world.subject, sae, [one.latent for one in found], members_of(found[0], candidates), world.tested_on.examples,
                                  found[0].text, config)
            results.append(record.model_dump(mode="json"))
    return results


def balanced(world: World, sae: Sae, by: Literal["effect", "slope"]) -> dict[str, Any]:
    """Popularity and the gap between users of popular and of rare taste, latents chosen on other users."""
    subject, users = world.subject, world.tested_on.examples
    popular = popularity_of([subject.history(example) for example in world.found_on], len(subject.items))
    if not len(Ranked(subject, users, "test")):
        return {}
    latents = popularity_latents(subject, sae, world.found_on.examples, popular, N_POPULARITY, by)
    return balance_curve(subject, sae, latents, users, popular, segments=taste_segments(subject, users, popular)).model_dump(mode="json")


def once(path: Path, make: Callable[[], Any]) -> None:
    if not path.exists():
        print(path, flush=True)
        write_bytes(path, (json.dumps(make(), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
