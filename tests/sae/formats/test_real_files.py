"""Files that others published: Gemma Scope parameters with recorded activations, a recommender with its trained SAE, a cfg.json of SAELens 3."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparselight.errors import SaeError
from sparselight.sae.formats import load_sae

DATA = Path(__file__).parents[4] / "shared" / "data"
GEMMA, RECSAE, SAELENS = (DATA / name for name in ("gemmascope_slices", "recsae_ml1m", "saelens_cfg_sparsity"))


def needs(folder: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not folder.is_dir(), reason=f"the published files are not here: {folder.name}")


@needs(GEMMA)
@pytest.mark.parametrize("layer", [10, 20])
@pytest.mark.parametrize("stored", ["npz", "pt"])
def test_gemma_scope_gives_the_recorded_activations(layer: int, stored: str, tmp_path: Path) -> None:
    """Ten latents of gemma-2-2b's 65k SAE and what they were recorded to do on 775 texts.

    The texts' residual streams are not published, so for each recorded row of ten activations a vector x is solved that has those
    pre-activations (the ten encoder directions are independent); for latents that were recorded as 0, one just below the threshold. The SAE must
    then give the recorded row: same orientation, b_dec not subtracted, strict thresholds in the same units.
    """
    pq = pytest.importorskip("pyarrow.parquet")
    file = GEMMA / f"layer_{layer}" / "GemmaScopeSAE.pt"
    published = torch.load(file, map_location="cpu", weights_only=True)
    if stored == "npz":  # as Gemma Scope itself stores them
        file = tmp_path / f"layer_{layer}" / "width_65k" / "params.npz"
        file.parent.mkdir(parents=True)
        np.savez(file, **{name: tensor.numpy() for name, tensor in published.items()})
    sae = load_sae(file)
    assert sae.imported is not None
    assert sae.imported.format == "gemma_scope"
    assert (sae.d_in, sae.n_latents, sae.subtract_b_dec) == (2304, 10, False)
    table = pq.read_table(GEMMA / f"layer_{layer}" / "latent_data.parquet", columns=["concept_id", "GemmaScopeSAE_acts"]).to_pylist()
    recorded = torch.zeros(0, 10)
    for row in table:
        acts = torch.tensor(row["GemmaScopeSAE_acts"], dtype=torch.float32)
        lines = torch.zeros(len(acts), 10)
        lines[:, row["concept_id"]] = acts
        recorded = torch.cat([recorded, lines[acts > 0], lines[:2]])
    fires = recorded > 0
    assert int(fires.sum()) > 200
    # The record was made in bfloat16: what fired lies above its threshold but for that rounding.
    lowest = torch.where(fires, recorded, torch.inf).min(0).values
    assert (lowest > sae.threshold * (1 - 2**-7)).all()
    clear = ~(fires & (recorded <= sae.threshold)).any(1)
    assert clear.float().mean() > 0.99
    wanted = torch.where(fires, recorded, 0.99 * sae.threshold)[clear].double()
    x = torch.linalg.lstsq(sae.W_enc.double().T, (wanted - sae.b_enc.double()).T).solution.T.float()
    assert torch.allclose(sae.encode(x).to_dense(), recorded[clear], atol=2e-4 * float(recorded.max()))
    assert torch.equal(sae.encode(x).to_dense() > 0, fires[clear])


@needs(GEMMA)
def test_gemma_scope_with_b_dec_subtracted_would_not(tmp_path: Path) -> None:
    """The other convention gives other activations: the test above can fail."""
    sae = load_sae(GEMMA / "layer_10" / "GemmaScopeSAE.pt")
    x = 20 * torch.randn(100, 2304, generator=torch.Generator().manual_seed(0))
    before = sae.pre_activations(x)
    sae.subtract_b_dec = True
    assert float((sae.pre_activations(x) - before).abs().max()) > 1


RECSAE_FILE = RECSAE / "SASRec_SAE__ML_1MTOPK__emb64_L2_H2__k16_scale32.pt"


@needs(RECSAE)
def test_recsae() -> None:
    """The SAE reconstructs its own recommender's states: on vectors of item and position embeddings' size, as its code computes it."""
    with pytest.raises(SaeError, match=r"does not say k \(its name says 16\).*give k="):
        load_sae(RECSAE_FILE)
    sae = load_sae(RECSAE_FILE, k=16)
    assert (sae.d_in, sae.n_latents, sae.k, sae.subtract_b_dec) == (64, 2048, 16, True)
    state = torch.load(RECSAE_FILE, map_location="cpu", weights_only=True)
    x = sasrec_states(state)
    pre = (x - state["sae_module.b_dec"]) @ state["sae_module.encoder.weight"].T + state["sae_module.encoder.bias"]
    top = pre.relu().topk(16, dim=1)
    z = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    x_hat = z @ state["sae_module.W_dec"] + state["sae_module.b_dec"]
    assert torch.allclose(sae.encode(x).to_dense(), z, atol=1e-5)
    assert torch.allclose(sae.reconstruct(x), x_hat, atol=1e-4)
    fvu = float((x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
    print(f"fvu of the published SAE on {len(x)} states of its recommender: {fvu:.3f}")
    assert fvu < 0.2
    sae.subtract_b_dec = False
    wrong = float((x - sae.reconstruct(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
    assert wrong > 2 * fvu


def sasrec_states(state: dict[str, torch.Tensor], n_users: int = 200, length: int = 12) -> torch.Tensor:
    """Last-position states of the published SASRec for histories drawn at random: two post-norm blocks, positions counted from the latest item."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, len(state["i_embeddings.weight"]), (n_users, length), generator=generator)
    positions = length - torch.arange(length)
    x = state["i_embeddings.weight"][items] + state["p_embeddings.weight"][positions]
    mask = torch.tril(torch.ones(length, length)).bool()
    for number in range(2):
        part = {name.removeprefix(f"transformer_block.{number}."): value for name, value in state.items() if name.startswith(f"transformer_block.{number}.")}
        q, k, v = ((x @ part[f"masked_attn_head.{name}_linear.weight"].T + part[f"masked_attn_head.{name}_linear.bias"]).unflatten(-1, (2, 32)).transpose(1, 2)
                   for name in "qkv")
        scores = (q @ k.transpose(-1, -2) / 32**0.5).masked_fill(~mask, -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = torch.nn.functional.layer_norm(x + attended, (64,), part["layer_norm1.weight"], part["layer_norm1.bias"])
        hidden = (x @ part["linear1.weight"].T + part["linear1.bias"]).relu() @ part["linear2.weight"].T + part["linear2.bias"]
        x = torch.nn.functional.layer_norm(x + hidden, (64,), part["layer_norm2.weight"], part["layer_norm2.bias"])
    return x[:, -1]


@needs(RECSAE)
def test_a_recommender_without_an_sae_is_none() -> None:
    with pytest.raises(SaeError, match="no format known here"):
        load_sae(RECSAE / "SASRec__ML_1MTOPK__emb64_L2_H2.pt")


@needs(SAELENS)
def test_a_gated_sae_of_saelens_3(tmp_path: Path) -> None:
    """The published cfg.json, made smaller where it says sizes, beside weights of the same names."""
    cfg = json.loads((SAELENS / "cfg.json").read_text()) | {"d_in": 6, "d_sae": 20}
    generator = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (6, 20), "W_dec": (20, 6), "b_dec": (6,), "b_gate": (20,), "b_mag": (20,), "r_mag": (20,)}
    weights = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    save_file(weights, tmp_path / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(20)}, tmp_path / "sparsity.safetensors")
    sae = load_sae(tmp_path)
    x = torch.randn(50, 6, generator=generator)
    shared = (x - weights["b_dec"]) @ weights["W_enc"]
    z = (shared + weights["b_gate"] > 0) * (shared * weights["r_mag"].exp() + weights["b_mag"]).relu()
    assert torch.allclose(sae.encode(x).to_dense(), z, atol=1e-4)
    assert sae.imported is not None
    assert sae.imported.facts == {
        "model": "gpt2-small", "site": "blocks.8.hook_resid_pre", "context_tokens": 256, "prepend_bos": True, "dataset": "NeelNanda/openwebtext-tokenized-9b"}
    assert len(load_file(SAELENS / "sparsity.safetensors")["sparsity"]) == 12288
