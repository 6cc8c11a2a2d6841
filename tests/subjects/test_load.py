import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from sparselight.errors import ConfigError, MissingExtraError, SubjectError
from sparselight.places import known_as
from sparselight.subjects import CausalLM, Encoder, MaskedLM, SubjectConfig, load, load_subject, weights
from sparselight.testing import tiny_corpus, tiny_family, tiny_subject, tiny_tokenizer
from sparselight.testing.families import family_tokenizer, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(tiny_subject().model, folder)
    return folder


def save(model: object, folder: Path) -> Path:
    model.save_pretrained(folder)  # type: ignore[attr-defined]
    tiny_tokenizer().save_pretrained(folder)
    return folder


def config(source: object, **settings: object) -> SubjectConfig:
    return SubjectConfig.parse({"source": str(source), "device": "cpu", "context_tokens": 64, **settings})


def test_a_local_folder_loads_as_it_was_saved(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    subject, original = load_subject(config(checkpoint)), tiny_subject()
    assert subject.fingerprint == original.fingerprint
    assert subject.ref().name == known_as(str(checkpoint)) and "/" not in subject.ref().name
    assert subject.ref().source == subject.ref().address == str(checkpoint)
    batch = subject.prepare(tiny_corpus(2).examples)
    assert torch.equal(subject.loss(batch), original.loss(batch))
    assert capfd.readouterr() == ("", "")


def test_dtype_is_honored_and_activations_stay_float32(checkpoint: Path) -> None:
    subject = load_subject(config(checkpoint, dtype="bfloat16"))
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.bfloat16}
    batch = subject.prepare(tiny_corpus(2).examples)
    x = subject.capture(batch, ["resid_post.1"])["resid_post.1"]
    assert x.dtype == torch.float32
    assert torch.equal(subject.predict(batch, {"resid_post.1": lambda x: x}), subject.predict(batch))
    assert subject.fingerprint != tiny_subject().fingerprint
    assert subject.output_effects(x[:2], "resid_post.1").dtype == torch.float32


def test_the_demo_is_the_packages_own_model(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.resources, "files", lambda _package: tmp_path)
    with pytest.raises(SubjectError, match="lacks its files"):
        load_subject(SubjectConfig(context_tokens=64))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "demo_subject").symlink_to(checkpoint)
    assert load_subject(SubjectConfig(context_tokens=64)).ref().address == "demo"


@pytest.mark.parametrize(("settings", "why"), [
    ({"source": "./nowhere"}, "no such folder"),
    ({"source": "a/b/c"}, "no such folder"),
    ({"device": "gpu"}, ""),
    ({"device": "cuda:99"}, ""),
    ({"context_tokens": 100_000}, "512 positions"),
])
def test_refusals_of_settings(checkpoint: Path, settings: dict[str, object], why: str) -> None:
    with pytest.raises(SubjectError) as caught:
        load_subject(config(**{"source": checkpoint, **settings}))
    assert why in caught.value.why
    assert caught.value.instead
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"no config\.json"):
        load_subject(config(tmp_path))


def test_pickle_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    with pytest.raises(SubjectError, match="no weights"):
        load_subject(config(tmp_path))
    torch.save(tiny_subject().model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(SubjectError, match="pickle"):
        load_subject(config(tmp_path))


def test_incomplete_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "num_hidden_layers": 4}))
    with pytest.raises(SubjectError, match=r"missing or misshapen, such as model\.layers\.3"):
        load_subject(config(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(SubjectError, match="load the model"):
        load_subject(config(tmp_path))


def test_models_that_are_not_causal_are_refused(tmp_path: Path) -> None:
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(SubjectError, match="not a causal language model"):
        load_subject(config(save(t5, tmp_path / "t5"), kind="causal_lm"))
    bert_config = BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, initializer_range=0.5)
    with pytest.raises(SubjectError, match="tokens that come later"):
        CausalLM(BertLMHeadModel(bert_config), tiny_tokenizer(), "bert", 64)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def unreachable(source: str, **_settings: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.\nSome more advice.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(SubjectError) as caught:
        load_subject(config("owner/name", revision="v2"))
    assert "cannot be reached" in caught.value.why
    assert "subject.source" in caught.value.instead
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("family", "saved_as", "kind"), [
    ("llama", "", CausalLM), ("gpt2", "", CausalLM), ("bert", "", MaskedLM), ("modernbert", "", MaskedLM), ("bert_encoder", "", Encoder),
    ("bert", "BertForSequenceClassification", Encoder), ("t5_encoder", "", Encoder), ("t5_encoder", "T5ForConditionalGeneration", Encoder),
])
def test_the_kind_of_model_is_read_from_its_config(family: str, saved_as: str, kind: type, tmp_path: Path) -> None:
    import transformers

    model = tiny_model(family)
    if saved_as:
        model = getattr(transformers, saved_as)(model.config)
    model.save_pretrained(tmp_path)
    family_tokenizer(family).save_pretrained(tmp_path)
    subject = load_subject(config(tmp_path))
    assert type(subject) is kind
    assert subject.fingerprint == load_subject(config(tmp_path)).fingerprint
    x = subject.capture(subject.prepare(tiny_corpus(2).examples), ["resid_post.1"])["resid_post.1"]
    assert x.shape[1] == 16


def test_a_checkpoint_may_be_loaded_as_another_kind(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    family_tokenizer("bert").save_pretrained(tmp_path)
    masked, encoder = load_subject(config(tmp_path)), load_subject(config(tmp_path, kind="encoder"))
    batch = masked.prepare(tiny_corpus(3).examples)
    assert torch.equal(masked.capture(batch, ["resid_post.1"])["resid_post.1"], encoder.capture(batch, ["resid_post.1"])["resid_post.1"])
    tiny_model("bert_encoder").save_pretrained(tmp_path / "encoder")
    family_tokenizer("bert").save_pretrained(tmp_path / "encoder")
    with pytest.raises(SubjectError, match="do not fill a masked language model"):
        load_subject(config(tmp_path / "encoder", kind="masked_lm"))


def test_esm_loads_with_its_own_tokenizer(tmp_path: Path) -> None:
    tiny_model("esm").save_pretrained(tmp_path)
    family_tokenizer("esm").save_pretrained(tmp_path)
    subject = load_subject(config(tmp_path))
    assert type(subject) is MaskedLM
    assert subject.fingerprint == tiny_family("esm").fingerprint


@pytest.mark.parametrize(("settings", "missing", "why"), [
    ({"quantize": "int8"}, "bitsandbytes", "bitsandbytes is not installed"),
    ({"quantize": "int4"}, "accelerate", "accelerate is not installed"),
    ({"device_map": "auto"}, "accelerate", "accelerate is not installed"),
])
def test_packages_for_large_models_are_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], missing: str, why: str) -> None:
    find = weights.importlib.util.find_spec
    others = {"accelerate", "bitsandbytes"} - {missing}
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None if name == missing else find("json" if name in others else name))
    with pytest.raises(SubjectError, match=why) as caught:
        load_subject(config(checkpoint, **{"device": "auto", **settings}))
    assert "sparselight[large]" in caught.value.instead


def test_device_and_device_map_exclude_each_other(checkpoint: Path) -> None:
    with pytest.raises(SubjectError, match=r"subject\.device_map = 'auto' chooses devices"):
        load_subject(config(checkpoint, device_map="auto"))


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"sparselight\[text\]"):
        load_subject(SubjectConfig())


def test_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"subject\.dtype"):
        SubjectConfig.parse({"dtype": "int8"}, "subject")
    with pytest.raises(ConfigError, match="context_tokens"):
        SubjectConfig.parse({"context_token": 5}, "subject")
