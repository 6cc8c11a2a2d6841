"""Our SAE folders in the real SAELens, and its folders in ours: equal latents and reconstructions. Run by `make test-peers`."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparselight.records import SaeRecord, SubjectRef, TokenPolicy
from sparselight.sae import ARCHITECTURES, Sae, SaeConfig, load_sae, save_sae, save_stitched, stitch

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
D_IN, D_OUT, N_LATENTS, N_TOKENS = 48, 40, 192, 512
TOLERANCE = 1e-5
TRANSCODER: dict[str, Any] = {"subtract_b_dec": False, "d_out": D_OUT}


class Kind(NamedTuple):
    """One SAE that we save: its training, its form, and the class of SAELens that it becomes."""

    architecture: str
    form: dict[str, Any]
    saelens: str
    stitched: bool = False


KINDS = {
    "b_dec subtracted": Kind("batch_topk", {}, "JumpReLUSAE"),
    "b_dec not subtracted": Kind("batch_topk", {"subtract_b_dec": False}, "JumpReLUSAE"),
    "stitched": Kind("batch_topk", {}, "JumpReLUSAE", stitched=True),
    "stitched topk": Kind("topk", {}, "JumpReLUSAE", stitched=True),
    **{name: Kind(name, {}, "TopKSAE" if name == "topk" else "JumpReLUSAE") for name in ARCHITECTURES},
    "transcoder": Kind("batch_topk", TRANSCODER, "JumpReLUTranscoder"),
    "relu transcoder": Kind("relu", TRANSCODER, "JumpReLUTranscoder"),
    "skip transcoder": Kind("jump_relu", {**TRANSCODER, "skip": True}, "JumpReLUSkipTranscoder"),
}
OWN = {  # made by SAELens, with weights of its own
    "standard": {}, "jumprelu": {}, "gated": {}, "topk": {"k": 8}, "topk by norm": {"k": 8, "rescale_acts_by_decoder_norm": True},
    "transcoder": {"d_out": D_OUT}, "skip_transcoder": {"d_out": D_OUT}, "jumprelu_transcoder": {"d_out": D_OUT},
    "jumprelu_skip_transcoder": {"d_out": D_OUT},
}
REFUSED = "topk transcoder"


class Case(NamedTuple):
    folder: Path
    x: Tensor


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Every kind of SAE, saved by us or made by SAELens, and run by SAELens. One more has a wrong cfg.json."""
    if not PEER_PYTHON.exists():
        pytest.skip("SAELens is not installed: run `make test-peers`")
    root, made = tmp_path_factory.mktemp("saelens"), {}
    for name, kind in {**KINDS, REFUSED: Kind("topk", TRANSCODER, "")}.items():
        folder = root / name.replace(" ", "_")
        sae = write_stitched(kind.architecture, folder / "sae") if kind.stitched else write_single(kind, folder / "sae")
        made[name] = Case(folder, clear_inputs(sae))
    for name, settings in OWN.items():
        folder = root / f"own_{name.replace(' ', '_')}"
        folder.mkdir()
        architecture = name.split()[0]
        subtracts = {} if "transcoder" not in name else {"apply_b_dec_to_input": False}
        (folder / "own.json").write_text(json.dumps({"architecture": architecture, "d_in": D_IN, "d_sae": N_LATENTS, **subtracts, **settings}))
        made[f"own {name}"] = Case(folder, torch.randn(N_TOKENS, D_IN, generator=torch.Generator().manual_seed(9)))
    wrong = root / "wrong"
    shutil.copytree(made["b_dec subtracted"].folder, wrong)
    cfg = json.loads((wrong / "sae" / "cfg.json").read_text())
    (wrong / "sae" / "cfg.json").write_text(json.dumps({**cfg, "apply_b_dec_to_input": False}))
    made["wrong"] = Case(wrong, made["b_dec subtracted"].x)
    for folder, x in made.values():
        save_file({"x": x}, folder / "inputs.safetensors")
    driver = Path(__file__).with_name("saelens_driver.py")
    done = subprocess.run([str(PEER_PYTHON), str(driver), *(str(folder) for folder, _ in made.values())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def random_sae(seed: int, n_latents: int, subtract_b_dec: bool = True, **form: Any) -> Sae:
    """Weights of the size of trained ones, decoder and encoder apart."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sae = Sae(D_IN, n_latents, subtract_b_dec, **form).requires_grad_(False)
    sae.W_dec.copy_(torch.nn.functional.normalize(drawn(n_latents, sae.d_out)))
    sae.W_enc.copy_(torch.nn.functional.normalize(drawn(n_latents, D_IN)).T + 0.1 * drawn(D_IN, n_latents))
    sae.b_enc.copy_(0.3 * drawn(n_latents))
    sae.b_dec.copy_(drawn(sae.d_out))
    if sae.W_skip is not None:
        sae.W_skip.copy_(0.1 * drawn(D_IN, sae.d_out))
    return sae


def finished(architecture: str, sae: Sae) -> Sae:
    """The inference form that a training of this architecture ends with."""
    settings = {"k": 8.0} if "k" in ARCHITECTURES[architecture].settings else {}
    forward = ARCHITECTURES[architecture].make(sae, SaeConfig(architecture=architecture, **settings))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in forward.parameters().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    forward.calibrate(sae, [2 * torch.randn(N_TOKENS, D_IN, generator=generator)])
    return sae


def record_of(sae: Sae, architecture: str, **changes: Any) -> SaeRecord:
    subject = SubjectRef(name="random", fingerprint="0" * 64, token_policy=TokenPolicy(prepend_bos=False, context_tokens=128))
    transcoder = sae.d_out != sae.d_in
    return SaeRecord(
        architecture=architecture, role="base", site="resid_post.1", subject=subject, store_fingerprint="1" * 64, d_in=sae.d_in, n_latents=sae.n_latents,
        k=8, l0=8.0, n_dead=0, dead_after_tokens=1000, n_tokens_seen=1000, normalization="none", loss_scale="none", config={},
        target_site="mlp_out.1" if transcoder else None, topk_threshold=None if sae.k is None else float(sae.threshold[0])).model_copy(update=changes)


def write_stitched(architecture: str, folder: Path) -> Sae:
    base, residual = finished(architecture, random_sae(1, N_LATENTS)), finished("batch_topk", random_sae(2, N_LATENTS // 4, False))
    base.record = record_of(base, architecture)
    residual.record = record_of(residual, "batch_topk", role="residual", parents=[base.weights_hash()])
    both = stitch(base, residual)
    save_stitched(both, folder)
    return both


def write_single(kind: Kind, folder: Path) -> Sae:
    sae = finished(kind.architecture, random_sae(0, N_LATENTS, **kind.form))
    save_sae(sae, record_of(sae, kind.architecture), folder)
    return sae


def clear_inputs(sae: Sae) -> Tensor:
    """Rows of which no pre-activation lies so near where it is cut off that the order of a sum could decide."""
    x = 2 * torch.randn(N_TOKENS, D_IN, generator=torch.Generator().manual_seed(9))
    pre = sae.pre_activations(x)
    if sae.k is None:
        clear = ((pre - sae.threshold.clamp(min=0)).abs() > 1e-4).all(1)
    else:
        top = pre.topk(sae.k + 1).values
        clear = top[:, -2] - top[:, -1] > 1e-4
    assert clear.sum() > 0.9 * N_TOKENS
    return x[clear]


def differences(case: Case) -> dict[str, float]:
    """Largest absolute difference between SAELens' outputs and ours, relative to the largest output."""
    sae, theirs = load_sae(case.folder / "sae"), load_file(case.folder / "outputs.safetensors")
    codes = sae.encode(case.x)
    ours = {"latents": codes.to_dense(), "reconstruction": sae.decode(codes, case.x)}
    return {name: float((theirs[name] - ours[name]).abs().max() / theirs[name].abs().max().clamp(min=1)) for name in ours}


@pytest.mark.parametrize("kind", [*KINDS, *(f"own {name}" for name in OWN)])
def test_latents_and_reconstructions_are_equal(kind: str, cases: dict[str, Case]) -> None:
    case = cases[kind]
    latents = load_file(case.folder / "outputs.safetensors")["latents"]
    assert latents.any()
    assert torch.equal(latents > 0, load_sae(case.folder / "sae").encode(case.x).to_dense() > 0)
    worst = differences(case)
    print(f"{kind}: {(case.folder / 'facts.json').read_text()} largest differences {worst}")
    assert max(worst.values()) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_what_saelens_saves_is_ours_again(kind: str, cases: dict[str, Case]) -> None:
    case = cases[kind]
    ours, back = load_sae(case.folder / "sae"), load_sae(case.folder / "copy")
    assert back.weights_hash() == ours.weights_hash()
    assert torch.equal(back.reconstruct(case.x), ours.reconstruct(case.x))


@pytest.mark.parametrize("kind", KINDS)
def test_saelens_knows_where_the_sae_belongs(kind: str, cases: dict[str, Case]) -> None:
    facts = json.loads((cases[kind].folder / "facts.json").read_text())
    assert facts["class"] == KINDS[kind].saelens
    assert (facts["hook_name"], facts["model_name"], facts["prepend_bos"], facts["context_size"]) == ("resid_post.1", "random", False, 128)


def test_saelens_refuses_what_it_does_not_have(cases: dict[str, Case]) -> None:
    """It would select other latents as any architecture of its own."""
    assert "sparselight_topk_transcoder" in json.loads((cases[REFUSED].folder / "facts.json").read_text())["refused"]


def test_a_wrong_folder_is_seen(cases: dict[str, Case]) -> None:
    assert min(differences(cases["wrong"]).values()) < TOLERANCE  # we read the same wrong folder as they do
    right = load_sae(cases["b_dec subtracted"].folder / "sae")
    theirs = load_file(cases["wrong"].folder / "outputs.safetensors")
    assert float((right.reconstruct(cases["wrong"].x) - theirs["reconstruction"]).abs().max()) > 100 * TOLERANCE
