"""Vectors and influence from models, and the select stage that they go into."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from sparselight.cli import console
from sparselight.errors import ConfigError
from sparselight.pipeline import embedding, plan, run_pipeline
from sparselight.pipeline.embedding import TextVectors, embed
from sparselight.pipeline.influence import SaeInfluence
from sparselight.pipeline.recipe import Recipe
from sparselight.pipeline.selecting import make_selection, stage_inputs
from sparselight.protocols import Example
from sparselight.records import SaeRecord
from sparselight.sae import Sae
from sparselight.sae.disk import save_sae
from sparselight.select import SelectConfig
from sparselight.testing import tiny_corpus, tiny_subject, tiny_tokenizer, tiny_wordpiece_tokenizer
from sparselight.train.influence import influence

SITE = "resid_post.1"
DENSE = SelectConfig(seeds=("security/cipher.py",), retrieve=("dense",), max_tokens=9000)


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


@pytest.fixture(scope="module")
def sides():
    return tiny_corpus(320).split(0.3, 1, ("security/cipher.py",))


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT as sentence-transformers keeps one: mean pooling, unit length."""
    from transformers import BertConfig, BertModel

    folder, tokenizer = tmp_path_factory.mktemp("encoder"), tiny_wordpiece_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                        max_position_embeddings=512)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true}')
    (folder / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.Transformer"}, '
                                         '{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}, '
                                         '{"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]')
    return folder


def random_sae(d_in: int = 32, n_latents: int = 64) -> Sae:
    generator = torch.Generator().manual_seed(0)
    sae = Sae(d_in, n_latents).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(n_latents, d_in, generator=generator), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_enc.zero_()
    sae.b_dec.zero_()
    sae.threshold.fill_(0.1)
    return sae


def test_a_vector_is_the_mean_over_an_examples_tokens(subject):
    examples = [*tiny_corpus(12), Example("long", " ".join(example.text for example in tiny_corpus(12)), "long"), Example("empty", "", "empty")]
    vectors = embed(subject, examples, SITE)
    for example, vector in zip(examples[:-1], vectors, strict=False):
        alone = subject.capture(subject.prepare([example]), [SITE])[SITE]
        assert vector == pytest.approx(alone.mean(0).numpy(), abs=1e-4)
    assert not vectors[-1].any()


def test_what_vectors_cost_is_probed_on_a_few_texts_and_nothing_where_they_are_kept(subject, sides, tmp_path, monkeypatch):
    examples = [*sides[0], *sides[1]]
    seen: list[int] = []
    monkeypatch.setattr(embedding, "embed", lambda _subject, given, _site, _progress=None: seen.append(len(given)) or np.zeros((len(given), 2), np.float32))
    clock = iter(np.arange(100) * 3.0)
    monkeypatch.setattr(embedding.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(embedding, "PROBE_CHARS", 400)
    vectors = TextVectors(DENSE, subject, SITE, tmp_path)
    expected = vectors.expected_seconds(examples)
    assert seen[0] == 1 and 1 <= seen[1] < len(examples) / 4
    chars = sum(1 + len(example.text) for example in examples)
    assert 0.3 * 3 * chars / 400 < expected < 3 * chars / 400  # the sample may be a text longer than asked
    vectors(examples)
    assert vectors.expected_seconds(examples) == 0
    assert TextVectors(DENSE, subject, SITE).expected_seconds([]) == 0


def test_the_plan_of_a_run_says_what_it_cannot_know_yet(tmp_path):
    save = tmp_path / "subject"
    tiny_subject().model.save_pretrained(save)
    tiny_tokenizer().save_pretrained(save)
    rows = [{"id": example.id, "text": example.text, "file": example.group} for example in tiny_corpus(320)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.parse({
        "name": "plan", "corpus": {"root": str(tmp_path / "corpus.jsonl"), "id": "id", "group": "file"}, "subject": {"source": str(save), "context_tokens": 64},
        "harvest": {"site": SITE}, "select": {"seeds": ["security/cipher.py"], "retrieve": ["dense"], "max_tokens": 9000}, "train": {}, "residual": {}})

    def selection(recipe: Recipe) -> float | None:
        return next(row.seconds for row in plan(recipe, tmp_path / "run").rows if row.stage == "select")

    assert selection(recipe) is None
    found = plan(recipe, tmp_path / "run")
    assert found.seconds == pytest.approx(sum(row.seconds for row in found.rows if row.stage != "select"))
    table = io.StringIO()
    monkey = Console(file=table, width=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "Console", lambda: monkey)
        console.print_plan(found, tmp_path / "run")
    assert "not known yet" in table.getvalue() and "expected: over " in table.getvalue()
    run_pipeline(recipe, tmp_path / "run", until="corpus")
    assert 0 < selection(recipe) < 600
    assert selection(Recipe.parse({**recipe.model_dump(mode="json"), "select": {"seeds": ["security/cipher.py"], "max_tokens": 9000}})) < 1


def test_an_encoder_folder_says_how_it_pools(subject, encoder_folder, sides):
    config = DENSE.model_copy(update={"encoder": str(encoder_folder)})
    vectors = TextVectors(config, subject, SITE)(tiny_corpus(20).examples)
    assert vectors.shape == (20, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(20), abs=1e-5)
    _, selection = make_selection(*sides, config, subject, SITE)
    assert sum(selection.is_seed) == 40
    raw = TextVectors(config.model_copy(update={"encoder_pooling": "mean"}), subject, SITE)(tiny_corpus(20).examples)
    assert raw / np.linalg.norm(raw, axis=1, keepdims=True) == pytest.approx(vectors, abs=1e-5)
    (encoder_folder / "modules.json").rename(encoder_folder / "away.json")
    with pytest.raises(ConfigError, match=r"select\.encoder = .*set select\.encoder_pooling to mean"):
        TextVectors(config, subject, SITE)(tiny_corpus(2).examples)
    (encoder_folder / "away.json").rename(encoder_folder / "modules.json")


def test_vectors_of_other_texts_models_and_sites_are_kept_apart(subject, tmp_path):
    corpus = tiny_corpus(300).examples
    first = TextVectors(DENSE, subject, SITE, tmp_path)(corpus)
    assert (TextVectors(DENSE, subject, SITE, tmp_path)(corpus) == first).all()
    assert len(list(tmp_path.iterdir())) == 1
    TextVectors(DENSE, subject, "resid_post.0", tmp_path)(corpus)
    TextVectors(DENSE, tiny_subject(seed=1), SITE, tmp_path)(corpus)
    TextVectors(DENSE, subject, SITE, tmp_path)(corpus[1:])
    assert len(list(tmp_path.iterdir())) == 4


def test_influence_is_that_of_the_sae_on_its_sites_activations(subject, sides, tmp_path):
    ref = subject.ref()
    record = SaeRecord(architecture="batch_topk", role="base", site=SITE, subject=ref, store_fingerprint="s", d_in=32, n_latents=64, k=4, l0=4.1, n_dead=0,
                       dead_after_tokens=100, n_tokens_seen=1000, normalization="n", loss_scale="l", config={"k": 4})
    save_sae(random_sae(), record, tmp_path / "sae")
    config = SelectConfig(seeds=("security/cipher.py",), rerank="tracin", sae=str(tmp_path / "sae"), max_tokens=6000, pool_factor=2.0, common_frac=0.5)
    seeds, candidates = tiny_corpus(8).examples[:2], [*tiny_corpus(30).examples, Example("empty", "", "empty")]
    scores = SaeInfluence(config, subject, SITE, seeds)(candidates)

    def activations(examples):
        return [subject.capture(subject.prepare([example]), [SITE])[SITE] for example in examples]

    expected = influence(random_sae(), activations(candidates[:-1]), activations(seeds)).numpy()
    assert scores[:-1] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert scores[-1] == 0
    both, selection = make_selection(*sides, config, subject, SITE)
    ours = SaeInfluence(config, subject, SITE, [both[index] for index, seed in zip(selection.examples, selection.is_seed, strict=True) if seed])
    found = [index for index, seed in zip(selection.examples, selection.is_seed, strict=True) if not seed]
    assert selection.scores[40:] == pytest.approx(ours([both[index] for index in found]).tolist(), rel=1e-2, abs=1e-4)
    assert selection.scores[40:] == sorted(selection.scores[40:], reverse=True)
    with pytest.raises(ConfigError, match="it was trained at resid_post.1"):
        SaeInfluence(config, subject, "resid_post.0", seeds)
    with pytest.raises(ConfigError, match="set select.sae to the folder of a general SAE"):
        SaeInfluence(config.model_copy(update={"sae": None}), subject, SITE, seeds)


def test_what_changes_a_selection_is_in_its_hash(encoder_folder, tmp_path):
    (tmp_path / "seed.txt").write_text("one")
    config = DENSE.model_copy(update={"seed_files": (str(tmp_path / "seed.txt"),)})
    before = stage_inputs(config, SITE)
    (tmp_path / "seed.txt").write_text("two")
    assert stage_inputs(config, SITE) != before
    assert stage_inputs(config, SITE)["site"] == SITE
    assert stage_inputs(DENSE.model_copy(update={"encoder": str(encoder_folder)}), SITE)["encoder_files"]
    assert stage_inputs(SelectConfig(seeds=("a",)), SITE) == {}
