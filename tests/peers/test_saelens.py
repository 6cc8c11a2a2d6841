"""Our SAE folders in the real SAELens, and its folders in ours: equal latents and reconstructions. Run by `make test-peers`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import Sae, load_sae, save_sae, save_stitched, stitch

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
D_IN, N_LATENTS, N_TOKENS = 48, 192, 512
TOLERANCE = 1e-5
KINDS = ("b_dec subtracted", "b_dec not subtracted", "stitched")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Sae, Tensor]]:
    """Every kind of SAE, saved by us and run by SAELens: its folder, the SAE and the inputs. One more has a wrong cfg.json."""
    if not PEER_PYTHON.exists():
        pytest.skip("SAELens is not installed: run `make test-peers`")
    root, made = tmp_path_factory.mktemp("saelens"), {}
    for kind in KINDS:
        folder = root / kind.replace(" ", "_")
        sae = write_stitched(folder / "sae") if kind == "stitched" else write_single(folder / "sae", kind == "b_dec subtracted")
        made[kind] = (folder, sae, clear_inputs(sae))
    wrong = root / "wrong"
    shutil.copytree(made["b_dec subtracted"][0], wrong)
    cfg = json.loads((wrong / "sae" / "cfg.json").read_text())
    (wrong / "sae" / "cfg.json").write_text(json.dumps({**cfg, "apply_b_dec_to_input": False}))
    made["wrong"] = (wrong, *made["b_dec subtracted"][1:])
    for folder, _, x in made.values():
        save_file({"x": x}, folder / "inputs.safetensors")
    driver = Path(__file__).with_name("saelens_driver.py")
    done = subprocess.run([str(PEER_PYTHON), str(driver), *(str(folder) for folder, *_ in made.values())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def random_sae(seed: int, n_latents: int, subtract_b_dec: bool) -> Sae:
    """Weights of the size of trained ones, decoder and encoder apart, thresholds above 0."""
    generator = torch.Generator().manual_seed(seed)
    sae = Sae(D_IN, n_latents, subtract_b_dec).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(n_latents, D_IN, generator=generator)))
    sae.W_enc.copy_(sae.W_dec.T + 0.1 * torch.randn(D_IN, n_latents, generator=generator))
    sae.b_enc.copy_(0.3 * torch.randn(n_latents, generator=generator))
    sae.b_dec.copy_(torch.randn(D_IN, generator=generator))
    sae.threshold.copy_(0.5 + torch.rand(n_latents, generator=generator))
    return sae


def record_of(sae: Sae, role: str = "base", parents: list[str] | None = None) -> SaeRecord:
    subject = SubjectRef(name="random", fingerprint="0" * 64, token_policy=TokenPolicy(prepend_bos=False, context_tokens=128))
    return SaeRecord(
        architecture="batch_topk", role=role, site="resid_post.1", subject=subject, store_fingerprint="1" * 64, d_in=sae.d_in, n_latents=sae.n_latents,
        k=8, l0=8.0, n_dead=0, dead_after_tokens=1000, n_tokens_seen=1000, normalization="none", loss_scale="none", config={}, parents=parents or [],
    )


def write_stitched(folder: Path) -> Sae:
    base, residual = random_sae(1, N_LATENTS, True), random_sae(2, N_LATENTS // 4, False)
    base.record = record_of(base)
    residual.record = record_of(residual, "residual", [base.weights_hash()])
    both = stitch(base, residual)
    save_stitched(both, folder)
    return both


def write_single(folder: Path, subtract_b_dec: bool) -> Sae:
    sae = random_sae(0, N_LATENTS, subtract_b_dec)
    save_sae(sae, record_of(sae), folder)
    return sae


def clear_inputs(sae: Sae) -> Tensor:
    """Rows of which no pre-activation lies so near its threshold that the order of a sum could decide."""
    x = 2 * torch.randn(N_TOKENS, D_IN, generator=torch.Generator().manual_seed(9))
    clear = ((sae.pre_activations(x) - sae.threshold).abs() > 1e-4).all(1)
    assert clear.sum() > 0.9 * N_TOKENS
    return x[clear]


def differences(folder: Path, sae: Sae, x: Tensor) -> dict[str, float]:
    """Largest absolute difference between SAELens' outputs and ours."""
    theirs, codes = load_file(folder / "outputs.safetensors"), sae.encode(x)
    ours = {"latents": codes.to_dense(), "reconstruction": sae.decode(codes)}
    return {name: float((theirs[name] - ours[name]).abs().max()) for name in ours}


@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_reconstructions_are_equal(kind: str, cases: dict[str, tuple[Path, Sae, Tensor]]) -> None:
    folder, sae, x = cases[kind]
    assert torch.equal(load_file(folder / "outputs.safetensors")["latents"] > 0, sae.encode(x).to_dense() > 0)
    worst = differences(folder, sae, x)
    print(f"{kind}: {(folder / 'facts.json').read_text()} largest differences {worst}")
    assert max(worst.values()) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_what_saelens_saves_is_ours_again(kind: str, cases: dict[str, tuple[Path, Sae, Tensor]]) -> None:
    folder, _, x = cases[kind]
    ours, back = load_sae(folder / "sae"), load_sae(folder / "copy")
    assert back.weights_hash() == ours.weights_hash()
    assert torch.equal(back.reconstruct(x), ours.reconstruct(x))


@pytest.mark.parametrize("kind", KINDS)
def test_saelens_knows_where_the_sae_belongs(kind: str, cases: dict[str, tuple[Path, Sae, Tensor]]) -> None:
    facts = json.loads((cases[kind][0] / "facts.json").read_text())
    assert facts["class"] == "JumpReLUSAE"
    assert (facts["hook_name"], facts["model_name"], facts["prepend_bos"], facts["context_size"]) == ("resid_post.1", "random", False, 128)


def test_a_wrong_folder_is_seen(cases: dict[str, tuple[Path, Sae, Tensor]]) -> None:
    assert min(differences(*cases["wrong"]).values()) > 100 * TOLERANCE
