"""Going on from an SAE: the same function before the first step, frozen rows bit for bit, exact resume, what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import OUT_SITE, SITE, SUBJECT, MemoryStore, directions, fvu, planted, two_sites
from torch import Tensor

from sparselight.errors import ConfigError, SaeError, TrainingError
from sparselight.sae import Sae, load_sae, save_stitched, stitch
from sparselight.sae.formats import export_sae
from sparselight.sae.formats import load_sae as load_foreign
from sparselight.train import TrainConfig, export_best, train_many, train_sae
from sparselight.train.data import Rows, TrainingData
from sparselight.train.finetune import settle
from sparselight.train.log import read_log
from sparselight.train.notes import TOKENS_PER_WEIGHT
from sparselight.train.objectives import TERMS, make_objective
from sparselight.train.step import take_step
from sparselight.train.training import make_state

SHORT: dict[str, Any] = {"n_tokens": 4096, "batch_tokens": 256, "dead_after_tokens": 1024, "checkpoint_every_s": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "batch_topk": {"k": 3}, "topk": {"k": 3}, "matryoshka": {"k": 3}, "relu": {"objective": {"l1": 0.02}}, "gated": {"objective": {"l1": 0.02}},
    "jump_relu": {"objective": {"l0": 0.01}},
}


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore(planted(directions(), 3_000, 1))


@pytest.fixture(scope="module")
def domain() -> MemoryStore:
    """The same features in another mean, and some more of their own."""
    extra = torch.rand(3_000, 8, generator=torch.Generator().manual_seed(5)) < 0.2
    return MemoryStore(planted(directions(), 3_000, 4) + (7.0 * extra) @ directions(8, seed=9) + 1)


@pytest.fixture(scope="module")
def inits(store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sae]:
    folder = tmp_path_factory.mktemp("inits")
    configs = {name: TrainConfig.parse({**SHORT, "n_latents": 48, "architecture": name, **settings}) for name, settings in KINDS.items()}
    return train_many(store, None, SITE, configs, folder, SUBJECT)


def config_of(name: str, *, lr: float = 1e-3, **settings: Any) -> TrainConfig:
    return TrainConfig.parse({**SHORT, "lr": lr, **({} if "k" in KINDS[name] else KINDS[name] | {"architecture": name}), **settings}, "train")


def first_state(init: Sae, config: TrainConfig, store: MemoryStore) -> tuple[Any, TrainingData]:
    settled = settle(config, init)
    data = TrainingData(Rows(store, SITE, None, settled.batch_tokens, 0, torch.device("cpu")), settled, None)
    return make_state(settled, data, init), data


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("normalize", ["none", "scalar", "per_dimension", "whiten"])
@pytest.mark.parametrize("name", KINDS)
def test_before_the_first_step_it_reconstructs_as_it_did(name: str, normalize: str, inits: dict[str, Sae], domain: MemoryStore) -> None:
    init, x = inits[name], domain.sites[SITE][:300]
    free = {"decoder_norm": "free"} if name == "topk" and normalize in ("per_dimension", "whiten") else {}
    state, data = first_state(init, config_of(name, normalize=normalize, **free), domain)
    scaled, sae = data.scaling.into(x), state.sae
    assert settle(config_of(name), init).architecture == name
    selects_alike = name in ("topk", "relu", "gated", "jump_relu")  # in training as at inference
    found = state.forward(sae, scaled).x_hat.detach() if selects_alike else sae.reconstruct(scaled)
    inverse = data.scaling.out_of.inverted()
    assert relative(inverse(found), init.reconstruct(x)) < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_fine_tuning_fits_the_domain_better_and_names_its_parent(name: str, inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    tuned = train_sae(domain, None, SITE, config_of(name, n_tokens=12_288), tmp_path, SUBJECT, init=inits[name])
    x = domain.sites[SITE]
    assert fvu(tuned, x) < 0.9 * fvu(inits[name], x)
    assert tuned.record is not None
    assert (tuned.record.architecture, tuned.record.role, tuned.record.n_latents) == (name, "base", 48)
    assert tuned.record.parents == [inits[name].weights_hash()]
    assert "Trained on from an SAE of 48 latents" in tuned.record.notes[0]


@pytest.mark.parametrize("new_init", ["random", "most_active"])
@pytest.mark.parametrize("name", [name for name in KINDS if name != "matryoshka"])
def test_frozen_rows_come_out_bit_for_bit(name: str, new_init: str, inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    init = inits[name]
    noise = {"new_noise": 0.3} if new_init == "most_active" else {}
    config = config_of(name, lr=1e-2, finetune={"n_new": 16, "new_init": new_init, "train_only": "new", **noise}, log_every_steps=1)
    train_sae(domain, None, SITE, config, tmp_path, SUBJECT, init=init)
    sae = load_sae(tmp_path / "sae")
    assert (sae.n_latents, sae.subtract_b_dec) == (64, init.subtract_b_dec)
    assert torch.equal(sae.W_enc[:, :48], init.W_enc)
    assert torch.equal(sae.W_dec[:48], init.W_dec)
    assert torch.equal(sae.b_enc[:48], init.b_enc)
    assert torch.equal(sae.b_dec, init.b_dec)
    x = domain.sites[SITE]
    assert fvu(sae, x) < 0.9 * read_log(tmp_path / "log.jsonl")[0]["fvu"]  # with the first weights of the new ones
    if name in ("relu", "gated", "jump_relu"):  # and so are their activations, the thresholds being theirs alone
        assert torch.equal(sae.threshold[:48], init.threshold)
    assert float(sae.encode(x).to_dense()[:, 48:].count_nonzero()) > 0
    assert sae.record is not None
    assert "16 new latents after them" in sae.record.notes[0]
    assert "only these were trained" in sae.record.notes[0]


def test_frozen_rows_have_no_optimizer_state(inits: dict[str, Sae], domain: MemoryStore) -> None:
    config = config_of("batch_topk", finetune={"n_new": 16, "train_only": "new"}, optimizer={"kind": "adamw", "weight_decay": 0.1})
    state, data = first_state(inits["batch_topk"], config, domain)
    before = {name: tensor.clone() for name, tensor in state.sae.tensors().items()}
    settled = settle(config, inits["batch_topk"])
    for step in range(3):
        take_step(state, make_objective(settled, TERMS), settled, *data.scaled(data.rows.batch(step)))
    after = state.sae.tensors()
    assert torch.equal(before["W_enc"][:, :48], after["W_enc"][:, :48])
    for name in ("b_enc", "W_dec"):
        assert torch.equal(before[name][:48], after[name][:48])
        assert not torch.equal(before[name][48:], after[name][48:])
    assert torch.equal(before["b_dec"], after["b_dec"])
    assert {len(tensor) for tensor in state.optimizer.tensors().values()} == {16}


def test_units_of_a_foreign_topk_sae_are_kept(domain: MemoryStore, inits: dict[str, Sae], tmp_path: Path) -> None:
    """Decoder rows of norm 3, and a frozen half: new latents are ranked among the old ones in the same units as in training."""
    init = copy.deepcopy(inits["topk"])
    with torch.no_grad():
        init.W_dec.mul_(3)
        init.W_enc.div_(3)
        init.b_enc.div_(3)
    state, data = first_state(init, config_of("topk"), domain)
    x = domain.sites[SITE][:300]
    assert relative(data.scaling.out_of.inverted()(state.forward(state.sae, data.scaling.into(x)).x_hat.detach()), init.reconstruct(x)) < 1e-5
    config = config_of("topk", lr=1e-2, finetune={"n_new": 16, "train_only": "new"}, log_every_steps=1)
    sae = train_sae(domain, None, SITE, config, tmp_path, SUBJECT, init=init)
    assert torch.equal(sae.W_dec[:48], init.W_dec)
    torch.testing.assert_close(torch.linalg.vector_norm(sae.W_dec, dim=1), torch.full((64,), 3.0))
    assert fvu(sae, domain.sites[SITE]) == pytest.approx(read_log(tmp_path / "log.jsonl")[-1]["fvu"], abs=0.03)


MODES: dict[str, dict[str, Any]] = {
    "all": {}, "extended": {"finetune": {"n_new": 16, "new_init": "most_active"}}, "frozen": {"finetune": {"n_new": 16, "train_only": "new"}},
    "tilted": {"objective": {"tilt": 5.0, "tilt_unit": "example"}},
    "tilted_frozen": {"objective": {"tilt": 5.0}, "finetune": {"n_new": 16, "train_only": "new"}},
}


def interrupted_at(tokens: int):
    def progress(done: float, total: float, note: str = "") -> None:
        if done >= tokens:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_one_is_gone_on_with(mode: str, inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    init, config = inits["batch_topk"], config_of("batch_topk", **MODES[mode])
    whole = train_sae(domain, None, SITE, config, tmp_path / "whole", SUBJECT, init=init)
    with pytest.raises(KeyboardInterrupt):
        train_sae(domain, None, SITE, config, tmp_path / "again", SUBJECT, progress=interrupted_at(1_500), init=init)
    assert list((tmp_path / "again" / "checkpoints").iterdir())
    assert train_sae(domain, None, SITE, config, tmp_path / "again", SUBJECT, init=init).weights_hash() == whole.weights_hash()


def test_the_best_state_of_an_extended_one_is_exported(inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    config = config_of("batch_topk", finetune={"n_new": 16, "train_only": "new"}, best_every_steps=4)
    train_sae(domain, None, SITE, config, tmp_path, SUBJECT, init=inits["batch_topk"])
    best = export_best(domain, None, SITE, config, tmp_path, SUBJECT, init=inits["batch_topk"])
    assert torch.equal(best.W_dec[:48], inits["batch_topk"].W_dec)


@pytest.mark.parametrize(("name", "form"), [("topk", "sparsify"), ("batch_topk", "dictionary_learning"), ("relu", "dictionary_learning")])
def test_a_foreign_format_is_gone_on_from(name: str, form: str, inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    """Nothing is known of it but what its files say."""
    export_sae(inits[name], tmp_path / "foreign", form)
    init = load_foreign(tmp_path / "foreign")
    assert init.record is None
    penalty = KINDS["relu"] if name == "relu" else {}
    settings = {**SHORT, **penalty, **({"k": 3} if name == "batch_topk" else {}), "lr": 1e-3}
    state, data = first_state(init, TrainConfig.parse(settings), domain)
    x = domain.sites[SITE][:200]
    scaled = data.scaling.into(x)
    found = state.forward(state.sae, scaled).x_hat.detach() if name == "topk" else state.sae.reconstruct(scaled)
    assert relative(data.scaling.out_of.inverted()(found), init.reconstruct(x)) < 1e-5
    sae = train_sae(domain, None, SITE, TrainConfig.parse(settings), tmp_path / "tuned", SUBJECT, init=init)
    assert sae.record is not None
    assert sae.record.architecture == name
    assert sae.record.parents == [init.weights_hash()]


def test_many_are_fine_tuned_on_one_stream(inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    configs = {name: config_of("batch_topk", **settings) for name, settings in MODES.items()} | {"fresh": config_of("batch_topk", n_latents=32, k=3)}
    from_sae = dict.fromkeys(MODES, inits["batch_topk"])
    found = train_many(domain, None, SITE, configs, tmp_path / "many", SUBJECT, inits=from_sae)
    for name in ("frozen", "tilted", "fresh"):
        alone = train_sae(domain, None, SITE, configs[name], tmp_path / name, SUBJECT, init=from_sae.get(name))
        assert alone.weights_hash() == found[name].weights_hash()
    with pytest.raises(ConfigError, match="'other' has an SAE to go on from and no settings"):
        train_many(domain, None, SITE, configs, tmp_path / "x", SUBJECT, inits={"other": inits["topk"]})


def test_a_transcoder_is_fine_tuned(tmp_path: Path) -> None:
    store = MemoryStore(two_sites(3_000, 1))
    config = TrainConfig.parse({**SHORT, "n_latents": 48, "k": 3, "target_site": OUT_SITE, "skip": True})
    init = train_sae(store, None, SITE, config, tmp_path / "init", SUBJECT)
    state, data = first_state_of(init, store)
    x = store.sites[SITE][:200]
    found = data.scaling.out_of.inverted()(state.sae.reconstruct(data.scaling.into(x)))
    assert relative(found, init.reconstruct(x)) < 1e-5
    frozen = TrainConfig.parse({**SHORT, "finetune": {"n_new": 8, "train_only": "new"}})
    tuned = train_sae(store, None, SITE, frozen, tmp_path / "tuned", SUBJECT, init=init)
    assert tuned.W_skip is not None
    assert torch.equal(tuned.W_skip, init.W_skip)
    assert tuned.record is not None
    assert tuned.record.target_site == OUT_SITE


def first_state_of(init: Sae, store: MemoryStore) -> tuple[Any, TrainingData]:
    settled = settle(TrainConfig.parse(SHORT), init)
    data = TrainingData(Rows(store, SITE, None, settled.batch_tokens, 0, torch.device("cpu"), (OUT_SITE,)), settled, None)
    return make_state(settled, data, init), data


def test_architecture_follows_the_form_where_nothing_is_recorded() -> None:
    sae = Sae(32, 10)
    said = {"architecture": "jump_relu", "objective": {"l0": 0.1}}
    with pytest.raises(ConfigError, match="nothing keeps the latents of the architecture 'relu' few"):
        settle(TrainConfig(), sae)
    assert settle(TrainConfig.parse({"objective": {"l1": 0.1}}), sae).architecture == "relu"
    sae.threshold.fill_(0.5)
    with pytest.raises(ConfigError, match=r"nothing says how many.*set train\.k"):
        settle(TrainConfig(), sae)
    settled = settle(TrainConfig(k=4), sae)
    assert (settled.architecture, settled.n_latents, settled.k) == ("batch_topk", 10, 4)
    sae.threshold[3] = 0.7
    assert settle(TrainConfig.parse(said), sae).architecture == "jump_relu"
    with pytest.raises(ConfigError, match="nothing keeps the latents of the architecture 'jump_relu' few"):
        settle(TrainConfig(), sae)
    assert settle(TrainConfig(), Sae(32, 10, k=3)).k == 3


def refuse(kind: type[Exception], words: str, store: MemoryStore, folder: Path, init: Sae | None, base: Sae | None = None, **settings: Any) -> None:
    with pytest.raises(kind, match=words):
        train_sae(store, None, SITE, TrainConfig.parse({**SHORT, **settings}, "train"), folder, SUBJECT, base, init=init)
    assert not (folder / "training.json").exists()


def test_refusals(inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    init = inits["batch_topk"]
    refuse(ConfigError, r"train\.finetune: there is no SAE to go on from", domain, tmp_path, None, finetune={"n_new": 4})
    refuse(ConfigError, r"train\.n_latents = 64.*n_new adds latents", domain, tmp_path, init, n_latents=64)
    refuse(ConfigError, r"train\.expansion = 4.*n_new adds latents", domain, tmp_path, init, expansion=4)
    refuse(ConfigError, "copy", domain, tmp_path, init, finetune={"n_new": 49, "new_init": "most_active"})
    refuse(ConfigError, "added ones would shift them", domain, tmp_path, inits["matryoshka"], finetune={"n_new": 4})
    refuse(ConfigError, "its latents have thresholds", domain, tmp_path, init, architecture="relu", objective={"l1": 0.1})
    refuse(ConfigError, "other latents the k largest.*decoder_norm = 'free'", domain, tmp_path, inits["topk"], normalize="whiten")
    refuse(ConfigError, "gives back what it reads", domain, tmp_path, init, target_site=OUT_SITE)
    refuse(TrainingError, "it reads 8 dimensions", domain, tmp_path, Sae(8, 10, k=3))
    refuse(TrainingError, "its decoder bias is not 0", domain, tmp_path, init, base=init)
    with pytest.raises(ConfigError, match="train_only = 'new' means nothing while n_new is 0"):
        TrainConfig.parse({"finetune": {"train_only": "new"}})
    with pytest.raises(ConfigError, match="new_noise = 0.5 is for new_init"):
        TrainConfig.parse({"finetune": {"n_new": 3, "new_noise": 0.5}})


def test_another_sae_to_go_on_from_is_another_training(inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    config = config_of("batch_topk", k=3)
    train_sae(domain, None, SITE, config, tmp_path, SUBJECT, init=inits["batch_topk"])
    with pytest.raises(TrainingError, match="differs in .*init"):
        train_sae(domain, None, SITE, config, tmp_path, SUBJECT, init=inits["matryoshka"])


def test_residual_sae_is_trained_on_and_still_belongs_to_its_base(inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    base, small = inits["batch_topk"], TrainConfig.parse({**SHORT, "n_latents": 16, "k": 2})
    first = train_sae(domain, None, SITE, small, tmp_path / "first", SUBJECT, base)
    second = train_sae(domain, None, SITE, TrainConfig.parse(SHORT), tmp_path / "second", SUBJECT, base, init=first)
    assert second.record is not None
    assert second.record.parents == [base.weights_hash(), first.weights_hash()]
    assert second.record.role == "residual"
    assert not second.b_dec.any()
    whole = stitch(base, [first, second])
    save_stitched(whole, tmp_path / "stitched")
    assert whole.n_latents == 48 + 16 + 16
    tuned = train_sae(domain, None, SITE, config_of("batch_topk"), tmp_path / "tuned", SUBJECT, init=base)
    with pytest.raises(SaeError, match="errors of another base"):
        stitch(tuned, first)


def test_few_tokens_are_noted(inits: dict[str, Sae], domain: MemoryStore, tmp_path: Path) -> None:
    base = inits["batch_topk"]
    wide = train_sae(domain, None, SITE, TrainConfig.parse({**SHORT, "n_latents": 16, "k": 2}), tmp_path / "wide", SUBJECT, base)
    narrow = train_sae(domain, None, SITE, TrainConfig.parse({**SHORT, "n_latents": 3, "k": 1}), tmp_path / "narrow", SUBJECT, base)
    assert wide.record is not None
    assert narrow.record is not None
    assert wide.record.notes == [note for note in wide.record.notes if note.startswith("Few tokens: 3,000 distinct ones for 16 latents on 32 dimensions")] != []
    assert f"{TOKENS_PER_WEIGHT * 16 * 32:,} are wanted" in wide.record.notes[0]
    assert narrow.record.notes == []
    assert base.record is not None
    assert base.record.notes == []
