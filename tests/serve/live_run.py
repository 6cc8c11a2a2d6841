"""Run folders whose subject and SAEs can be run: tiny models of four modalities with SAEs of random directions, made in a second."""

import shutil
from pathlib import Path

import torch

from sparselight.corpus import ListCorpus
from sparselight.pipeline.recipe import load_recipe
from sparselight.protocols import Span
from sparselight.records import Card, Context, Explanation, SaeRecord
from sparselight.records.recommender import RecommenderRecord
from sparselight.sae import Sae
from sparselight.sae.disk import save_sae
from sparselight.store import HarvestConfig, harvest
from sparselight.subjects import RecommenderConfig, SubjectConfig, load_subject
from sparselight.subjects.recommender.folder import save_recommender
from sparselight.testing.families import tiny_family
from sparselight.testing.image_text import tiny_llava, tiny_studies
from sparselight.testing.recommender import tiny_interactions, tiny_recommender
from sparselight.testing.run_folder import DIGEST, MadeRun, make_run_folder
from sparselight.testing.tiny import tiny_corpus, tiny_proteins, tiny_subject

SITES = {"text": "resid_post.1", "residues": "resid_post.1", "items": "user_vector", "image": "resid_post.1"}
KINDS = {"text": "text", "residues": "protein", "items": "interactions", "image": "image_text"}
N_LATENTS = {"base": 48, "residual": 12}


def make_live_run(folder: Path, modality: str) -> Path:
    """Write the run."""
    site, subject, corpus, settings = SITES[modality], *subject_of(folder, modality)
    saes = {source: sae_of(subject.d_site(site), n, seed) for seed, (source, n) in enumerate(N_LATENTS.items())}
    records = {source: record_of(source, sae, subject, site) for source, sae in saes.items()}
    recipe = load_recipe("demo").model_dump(mode="json")
    recipe |= {"name": f"live {modality}", "corpus": {**recipe["corpus"], "kind": KINDS[modality], "root": str(folder / "gone")}, "subject": settings,
               "harvest": {**recipe["harvest"], "site": site}}
    made = MadeRun(name=f"live {modality}", modality=modality, site=site, recipe=recipe, saes=records)
    make_run_folder(folder, iter([[card_of(source, latent) for source, n in N_LATENTS.items() for latent in range(n)]]), made)
    for source, sae in saes.items():
        save_sae(sae, records[source], folder / f"{'train' if source == 'base' else 'residual'}-{DIGEST[:10]}" / "sae")
    for side in ("train", "held_out"):
        corpus.save(folder / f"corpus-{DIGEST[:10]}" / f"{side}.parquet")
        corpus.subset([0, 1, 2]).save(folder / f"select-{DIGEST[:10]}" / f"domain_{side}.parquet")
    for name in ("general_train", "domain_train"):
        harvest(subject, corpus.examples[:6], [site], folder / f"harvest-{DIGEST[:10]}" / name, HarvestConfig(site=site), name)
    return folder


def subject_of(folder: Path, modality: str):
    """The subject, its corpus, and the table `subject` of a recipe that loads it again."""
    if modality == "items":
        corpus = tiny_interactions()
        subject = tiny_recommender("sasrec", corpus)
        settings = RecommenderConfig.parse({"architecture": "sasrec", "d": 16, "n_layers": 2, "n_heads": 2, "max_history": 6})
        record = RecommenderRecord(name=subject.name, settings=settings.model_dump(mode="json"), n_users=len(corpus), n_items=len(subject.items),
                                   n_interactions=9, corpus="x", epochs=1, wall_s=1.0, results=[], popularity=[])
        save_recommender(subject, record, folder / "subject-0123456789")
        return subject, corpus, {"kind": "recommender", "source": "train", "recommender": settings.model_dump(mode="json")}
    if modality == "image":
        place = tiny_llava(folder.with_name(f"{folder.name}-model"))
        settings = {"source": str(place), "context_tokens": 200}
        corpus = ListCorpus(tiny_studies(folder.with_name(f"{folder.name}-studies")), "tiny_studies")
        (folder / "media").mkdir(parents=True)
        for example in corpus:
            shutil.copy(example.images[0].path, folder / "media" / f"{example.images[0].sha256[:16]}.png")
        return load_subject(SubjectConfig.parse(settings)), corpus, settings
    if modality == "residues":
        subject, corpus = tiny_family("esm"), with_spans(tiny_proteins())
    else:
        subject, corpus = tiny_subject(), tiny_corpus()
    place = folder.with_name(f"{folder.name}-model")
    subject.model.save_pretrained(place)
    subject._tokens.vocabulary._tokenizer.save_pretrained(place)
    settings = {"source": str(place), "context_tokens": subject.ref().token_policy.context_tokens}
    return subject, corpus, settings


def with_spans(corpus: ListCorpus) -> ListCorpus:
    from dataclasses import replace

    return ListCorpus([replace(one, spans=(Span(0, 4, "domain", "zinc finger"),)) for one in corpus], "tiny_proteins")


def sae_of(d_in: int, n_latents: int, seed: int) -> Sae:
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(d_in, n_latents).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(n_latents, d_in, generator=generator), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.threshold.fill_(0.3)
    return sae


def record_of(source: str, sae: Sae, subject, site: str) -> SaeRecord:
    return SaeRecord(architecture="batch_topk", role=source, site=site, subject=subject.ref(), store_fingerprint="", d_in=sae.d_in, n_latents=sae.n_latents,
                     k=4.0, l0=4.0, n_dead=0, dead_after_tokens=1, n_tokens_seen=1, normalization="none", loss_scale="", config={})


def card_of(source: str, latent: int) -> Card:
    context = Context(example="e", group="g", tokens=["a", " key"], activations=[0.0, 2.0], peak=1)
    return Card(latent=latent, source=source, fire_rate=0.01, domain_fire_rate=0.04, max_activation=2.0, n_fires=9, n_tokens=900, contexts=[context],
                explanation=Explanation(text=f"feature {latent}", label=f"word={latent}", explainer="statistical"), promotes=[" x"], suppresses=[])
