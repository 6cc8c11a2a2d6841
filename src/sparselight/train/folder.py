"""The folder of a training: what it was made for (training.json), and whether a call fits it.

training.json says all that the result depends on. Formats: 2 has the settings of today; 1, of version 0.1.0, had flat names for what now stands
in the tables objective, optimizer and schedule, and one seed for weights and order. A folder of either is gone on with; a setting that came later
counts as its default. Refuses: a folder of another training, and parts that do not belong together, before anything is written.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sparselight.config import canonical_json
from sparselight.errors import ConfigError, StoreError, TrainingError, nearest
from sparselight.files import write_bytes
from sparselight.protocols import Store
from sparselight.records import SubjectRef
from sparselight.sae import Sae
from sparselight.train.config import CHANGES_NO_RESULT, TrainConfig, n_latents_for
from sparselight.train.finetune import check_init

FORMAT = 2
MOVED = {
    "aux_weight": ("objective", "aux"), "aux_k": ("objective", "aux_k"), "clip_norm": ("optimizer", "clip_norm"),
    "warmup_frac": ("schedule", "warmup_frac"), "decay_frac": ("schedule", "decay_frac"),
}


@dataclass(frozen=True)
class Job:
    """One SAE to train: on what, how, and where it goes."""

    store: Store
    rows: Int[np.ndarray, " row"] | None
    site: str
    subject: SubjectRef
    name: str
    config: TrainConfig
    folder: Path
    base: Sae | None
    init: Sae | None = None
    """The SAE that training goes on from."""
    silent: Store | None = None
    """Where rows come from on which a residual SAE shall stay silent (train.silent_frac)."""

    def identity(self) -> dict[str, Any]:
        """All that the result depends on."""
        chosen = "all" if self.rows is None else hashlib.sha256(np.ascontiguousarray(self.rows, dtype="<i8").tobytes()).hexdigest()
        return {
            "format": FORMAT, "config": self.config.model_dump(mode="json", exclude=CHANGES_NO_RESULT), "site": self.site, "store": self.store.fingerprint,
            "rows": chosen, "subject": self.subject.fingerprint, "base": None if self.base is None else self.base.weights_hash(),
            "init": None if self.init is None else self.init.weights_hash(), "silent": None if self.silent is None else self.silent.fingerprint,
        }


def claim_folder(job: Job) -> None:
    """Write training.json, or refuse a folder where another training has come to something (a checkpoint, an SAE).

    Raises:
        TrainingError: naming the settings that differ, or when a newer version wrote the folder.
    """
    folder, ours = job.folder, job.identity()
    for leftover in folder.glob(".*.tmp"):  # of a writer that was killed; folders are save_sae's to clear
        if leftover.is_file():
            leftover.unlink()
    path = folder / "training.json"
    has_results = any(next(folder.glob(pattern), None) for pattern in ("sae", "best.safetensors", "checkpoints/step-*"))
    if not (path.exists() and has_results):
        write_bytes(path, (json.dumps(ours, indent=1) + "\n").encode())
        return
    try:
        theirs = in_todays_words(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        theirs = {}
    if isinstance(theirs.get("format"), int) and theirs["format"] > FORMAT:
        raise TrainingError(asked=f"train in {folder}", why=f"its training.json has format {theirs['format']}, this sparselight reads up to {FORMAT}",
                            instead="upgrade sparselight, or train into another folder")
    if canonical_json(theirs) != canonical_json(ours):
        names = sorted(differing(ours, theirs)) if theirs else ["what cannot be read: its training.json is damaged"]
        raise TrainingError(asked=f"train in {folder}", why=f"it holds a training that differs in {', '.join(names)}",
                            instead="remove that folder, or train into another one")


def in_todays_words(found: dict[str, Any]) -> dict[str, Any]:
    """training.json of any older format as it would be written today."""
    if found.get("format", FORMAT) > FORMAT:
        return found
    config = dict(found["config"])
    if found.get("format") == 1:
        config["data_seed"] = config["seed"]
        for old, (table, new) in MOVED.items():
            config.setdefault(table, {})[new] = config.pop(old)
    config = with_defaults(config, TrainConfig().model_dump(mode="json", exclude=CHANGES_NO_RESULT))
    return {"init": None, "silent": None, **found, "format": FORMAT, "config": config}


def with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those that are missing."""
    filled = {name: with_defaults(value, defaults[name]) if isinstance(defaults.get(name), dict) else value for name, value in config.items()}
    return {**defaults, **filled}


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of what differs, settings by their dotted names."""
    for name in {*ours, *theirs}:
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differing(one, other, "train." if name == "config" else f"{prefix}{name}.")
        elif canonical_json(one) != canonical_json(other):
            yield f"{prefix}{name}"


def check_fit(job: Job) -> None:
    """Refuse a site, subject or base SAE that the store does not belong to.

    Raises:
        StoreError, TrainingError, ConfigError: each by name.
    """
    own, sites, site, target = job.store.manifest.subject, job.store.manifest.sites, job.site, job.config.target_site
    for name in (site, target):
        if name is not None and name not in sites:
            held = f"that site is not in the store, which holds {', '.join(sites)}"
            raise StoreError(asked=f"train on the activations of {name}", why=held, instead=f"{nearest(name, sites)}, or harvest {name} too")
    n_latents_for(job.config, sites[site])
    if own.fingerprint != job.subject.fingerprint:
        raise TrainingError(asked=f"train on a store for the subject {job.subject.name}", why=f"the store was made from {own.name} or another revision",
                            instead="harvest this subject, or name the one that the store came from")
    if job.base is not None:
        check_base(job.base, site, sites[site], sites[target or site])
    if job.init is not None:
        check_init(job.init, job.base, site, sites[site], sites[target or site])
    check_silent(job)


def check_silent(job: Job) -> None:
    """Refuse a share of silent rows without a store of them, or the other way round, and rows that are not of this training's subject and site."""
    share = job.config.silent_frac
    if share and (job.base is None or job.silent is None):
        missing = "without a base SAE, what is given back would be 0 instead of x" if job.base is None else "no store says which rows"
        raise ConfigError(asked=f"train with train.silent_frac = {share:g}", why=missing,
                          instead="give a base SAE and a second store (--base, --silent), or set it to 0")
    if job.silent is None:
        return
    asked = "train a residual SAE that stays silent on the rows of a second store"
    if not share:
        raise ConfigError(asked=asked, why="train.silent_frac is 0", instead="set it, for example to 0.25, or leave the store out")
    theirs, own = job.silent.manifest, job.store.manifest
    if job.site not in theirs.sites or theirs.sites[job.site] != own.sites[job.site]:
        raise TrainingError(asked=asked, why=f"that store does not hold {job.site} with d_in = {own.sites[job.site]}",
                            instead="harvest the same site of the same subject")
    if theirs.subject.fingerprint != own.subject.fingerprint:
        raise TrainingError(asked=asked, why=f"that store was made from {theirs.subject.name} or another revision", instead="harvest the same subject")


def check_base(base: Sae, site: str, d_in: int, d_out: int) -> None:
    """Refuse a base SAE of another site or width."""
    asked = f"train a residual SAE at {site}"
    if base.d_in != d_in:
        raise TrainingError(asked=asked, why=f"the base SAE has d_in = {base.d_in}, the site {d_in}", instead="give a base SAE of the same site")
    if base.d_out != d_out:
        raise TrainingError(asked=asked, why=f"the base SAE gives back {base.d_out} dimensions, the target has {d_out}",
                            instead="give a base SAE of the same target")
    if base.record is not None and base.record.site != site:
        raise TrainingError(asked=asked, why=f"the base SAE was trained at {base.record.site}", instead="give a base SAE of the same site")
