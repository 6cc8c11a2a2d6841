"""Training an SAE in a folder: sets up, resumes what was interrupted, calibrates, folds, saves.

The folder holds training.json (what is trained on what), log.jsonl, checkpoints/ while it is unfinished, and sae/ when it is done.
Run again it goes on, or gives back what is done; weights come out the same bit for bit as without the interruption.
Refuses: a folder of another training, a config that does not fit the site, a base SAE of another site or width.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from sparselight.config import canonical_json
from sparselight.errors import TrainingError
from sparselight.files import folder_lock, write_bytes
from sparselight.protocols import Progress, Store, no_progress
from sparselight.records import SaeRecord, SubjectRef
from sparselight.sae import Sae, initialize, load_sae, save_sae
from sparselight.store import RowStream
from sparselight.train.checkpoint import Checkpoints
from sparselight.train.config import CHANGES_NO_RESULT, TrainConfig, n_latents_for
from sparselight.train.data import Scaling, TrainingData
from sparselight.train.log import TrainingLog
from sparselight.train.loop import train_loop
from sparselight.train.objectives import make_objective
from sparselight.train.state import TrainState

CALIBRATION_BATCHES = 32  # past the last training step; l0 is then measured on as many again


def train_sae(
    store: Store, rows: Int[np.ndarray, " row"] | None, site: str, config: TrainConfig, folder: Path, subject: SubjectRef,
    base: Sae | None = None, progress: Progress = no_progress,
) -> Sae:
    """Train an SAE on stored activations, or with `base` a residual SAE on what that frozen SAE leaves of them.

    Args:
        rows: the rows of the store to train on; None for all.
        folder: receives the log and the saved SAE in `sae`; a training that was interrupted there goes on.
        subject: the model that the activations came from, for the record.

    Returns:
        The SAE in inference form, working on raw activations, as saved.

    Raises:
        TrainingError: when the folder holds another training, the parts do not fit, or the training leaves finite numbers.
        ConfigError: when train.k is more than there are latents.
        StoreError: when the site is not stored or the rows do not fill one batch.
    """
    stream = RowStream(store, site, rows, config.batch_tokens, config.seed)
    d_in = store.manifest.sites[site]
    n_latents = n_latents_for(config, d_in)
    check_fit(store, site, d_in, subject, base)
    with folder_lock(folder, asked=f"train in {folder}"):
        claim_folder(folder, identity(store, rows, site, config, subject, base))
        checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint_every_s)
        if not (folder / "sae").exists():
            data = TrainingData(stream, base)
            state = make_state(config, d_in, n_latents, data.scaling)
            checkpoints.restore(state)
            with TrainingLog(folder / "log.jsonl", state.step) as log:
                train_loop(state, data, make_objective(config, state.sae), config, checkpoints, log, progress)
            record = finish(state, data, config, site, subject, store.fingerprint, base)
            save_sae(state.sae, record, folder / "sae")
        checkpoints.remove()
        return load_sae(folder / "sae")


def make_state(config: TrainConfig, d_in: int, n_latents: int, scaling: Scaling) -> TrainState:
    """The state before the first step. A residual SAE has no decoder bias, so that it adds something only where a latent fires."""
    sae = Sae(d_in, n_latents, subtract_b_dec=scaling.b_dec is not None)
    return TrainState(initialize(sae, scaling.b_dec, torch.Generator().manual_seed(config.seed)), config)


def finish(state: TrainState, data: TrainingData, config: TrainConfig, site: str, subject: SubjectRef, store_fingerprint: str, base: Sae | None) -> SaeRecord:
    """Set the threshold, measure l0 with it, fold the scales into the weights, and write down what came of it."""
    sae, scaling = state.sae, data.scaling
    state.forward.calibrate(sae, data.inputs(config.n_steps, CALIBRATION_BATCHES))
    later = [sae.encode(x) for x in data.inputs(config.n_steps + CALIBRATION_BATCHES, CALIBRATION_BATCHES)]
    sae.fold(scaling.scale_in, scaling.scale_out, scaling.mean)
    return SaeRecord(
        architecture=config.architecture, role="base" if base is None else "residual", site=site, subject=subject, store_fingerprint=store_fingerprint,
        d_in=sae.d_in, n_latents=sae.n_latents, k=config.k, l0=sum(len(codes.values) for codes in later) / sum(codes.n_tokens for codes in later),
        n_dead=len(state.dead.indices()), dead_after_tokens=config.dead_after_tokens, n_tokens_seen=config.n_steps * config.batch_tokens,
        normalization=f"input and target each times one scalar that makes E||. - mean||^2 = d_in ({scaling.scale_in:.6g}, {scaling.scale_out:.6g})",
        loss_scale="mean over tokens and dimensions in that scale: 1 for a constant prediction of the mean",
        config=config.model_dump(mode="json"), parents=[] if base is None else [base.weights_hash()],
    )


def identity(
    store: Store, rows: Int[np.ndarray, " row"] | None, site: str, config: TrainConfig, subject: SubjectRef, base: Sae | None,
) -> dict[str, Any]:
    """All that a training's result depends on."""
    chosen = "all" if rows is None else hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").tobytes()).hexdigest()
    return {
        "format": 1, "config": config.model_dump(mode="json", exclude=CHANGES_NO_RESULT), "site": site, "store": store.fingerprint, "rows": chosen,
        "subject": subject.fingerprint, "base": None if base is None else base.weights_hash(),
    }


def claim_folder(folder: Path, ours: dict[str, Any]) -> None:
    """Write training.json, or refuse a folder where another one stands."""
    for leftover in folder.glob(".*.tmp"):  # of a writer that was killed; folders are save_sae's to clear
        if leftover.is_file():
            leftover.unlink()
    path = folder / "training.json"
    if not path.exists():
        write_bytes(path, (json.dumps(ours, indent=1) + "\n").encode())
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        theirs = {}
    if canonical_json(theirs) != canonical_json(ours):
        names = [name for name in ours if not isinstance(theirs, dict) or theirs.get(name) != ours[name]]
        raise TrainingError(asked=f"train in {folder}", why=f"it holds a training that differs in {', '.join(names) or 'its format'}",
                            instead="remove that folder, or train into another one")


def check_fit(store: Store, site: str, d_in: int, subject: SubjectRef, base: Sae | None) -> None:
    """Refuse a subject or a base SAE that the store does not belong to."""
    own = store.manifest.subject
    if own.fingerprint != subject.fingerprint:
        raise TrainingError(asked=f"train on a store for the subject {subject.name}", why=f"the store was made from {own.name} or another revision",
                            instead="harvest this subject, or name the one that the store came from")
    if base is None:
        return
    asked = f"train a residual SAE at {site}"
    if base.d_in != d_in:
        raise TrainingError(asked=asked, why=f"the base SAE has d_in = {base.d_in}, the site {d_in}", instead="give a base SAE of the same site")
    if base.record is not None and base.record.site != site:
        raise TrainingError(asked=asked, why=f"the base SAE was trained at {base.record.site}", instead="give a base SAE of the same site")
