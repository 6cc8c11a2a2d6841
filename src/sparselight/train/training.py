"""Training SAEs in folders: sets up, resumes what was interrupted, calibrates, folds, saves.

A folder holds training.json (what is trained on what), log.jsonl, checkpoints/ while it is unfinished, sae/ when it is done, and best.safetensors
where train.best_every_steps asks for it. Run again it goes on, or gives back what is done; weights come out the same bit for bit as without the
interruption. Several SAEs on one stream come out as each by itself. Refuses what does not fit (folder.py) before it writes anything.
"""

import copy
import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int

from sparselight.config import canonical_json
from sparselight.errors import ConfigError, TrainingError
from sparselight.files import folder_lock
from sparselight.protocols import Progress, Store, no_progress
from sparselight.records import SaeRecord, SubjectRef
from sparselight.sae import ARCHITECTURES, Sae, initialize, load_sae, save_sae
from sparselight.train.checkpoint import BEST, Checkpoints, read_checkpoint
from sparselight.train.config import TrainConfig, n_latents_for, same_stream
from sparselight.train.data import Rows, TrainingData
from sparselight.train.finetune import put_back, settle, start_from
from sparselight.train.folder import Job, check_fit, claim_folder
from sparselight.train.log import TrainingLog, read_log
from sparselight.train.loop import train_loop
from sparselight.train.notes import notes_on
from sparselight.train.state import TrainState
from sparselight.train.step import Training
from sparselight.train.trackers import TrackedRun, check_installed, open_trackers

T = TypeVar("T")
CALIBRATION_BATCHES = 32  # past the last training step; l0 is then measured on as many again


def train_sae(
    store: Store, rows: Int[np.ndarray, " row"] | None, site: str, config: TrainConfig, folder: Path, subject: SubjectRef,
    base: Sae | None = None, progress: Progress = no_progress, *, init: Sae | None = None, silent: Store | None = None,
) -> Sae:
    """Train an SAE on stored activations, or with `base` a residual SAE on what that frozen SAE leaves of them.

    Args:
        rows: the rows of the store to train on; None for all.
        init: go on from this SAE (fine-tuning); what the config leaves open is taken from it.
        silent: where train.silent_frac of each batch comes from: rows on which a residual SAE shall give back 0.
        folder: receives the log and the saved SAE in `sae`; a training that was interrupted there goes on.
        subject: the model that the activations came from, for the record.

    Returns:
        The SAE in inference form, working on raw activations, as saved.

    Raises:
        TrainingError: when the folder holds another training, the parts do not fit, or the training leaves finite numbers.
        ConfigError: when train.k is more than there are latents.
        StoreError: when the site is not stored or the rows do not fill one batch.
    """
    return _train([Job(store, rows, site, subject, "", settle(config, init), folder, base, init, silent)], progress)[""]


def train_many(
    store: Store | Mapping[str, Store], rows: Int[np.ndarray, " row"] | None, site: str, configs: Mapping[str, TrainConfig], folder: Path,
    subject: SubjectRef, bases: Sae | Mapping[str, Sae] | None = None, progress: Progress = no_progress, *,
    inits: Sae | Mapping[str, Sae] | None = None, silent: Store | None = None,
) -> dict[str, Sae]:
    """Train several SAEs on one stream of activations, each as train_sae would by itself, in the folder of its name.

    Args:
        store: one for all, or one for each name (domains side by side): those that share a store share its stream.
        bases: the base SAE of all, or one for each name that has one.
        inits: the same for the SAEs that training goes on from.
        silent: as for train_sae, one for all.

    Raises:
        ConfigError: when they cannot share a stream, because batch_tokens, data_seed, silent_frac or device differ, or a name makes no folder.
        TrainingError: at the end, naming those that had to stop; the others are finished and saved.
    """
    asked = f"train {len(configs)} SAEs on one stream of activations"
    why = same_stream(list(configs.values()))
    if why or not configs:
        raise ConfigError(asked=asked, why=why or "there are none", instead="train them one by one")
    stores, base_of, init_of = each(store, configs), each(bases, configs), each(inits, configs)
    wrong = {name: "is no name of a folder" for name in configs if not re.fullmatch(r"[\w+=-][\w.+=-]*", name)}
    for what, of in (("a store", stores), ("a base SAE", base_of), ("an SAE to go on from", init_of)):
        wrong |= {name: f"has {what} and no settings" for name in of if name not in configs}
    for name, why in (wrong | {name: "has no store" for name in configs if name not in stores}).items():
        raise ConfigError(asked=asked, why=f"{name!r} {why}", instead="name each SAE by letters, digits and . _ + = -")
    settled = {name: settle(config, init_of.get(name), f"sweep.{name}") for name, config in configs.items()}
    return _train([Job(stores[name], rows, site, subject, name, config, folder / name, base_of.get(name), init_of.get(name), silent)
                   for name, config in settled.items()], progress)


def each(value: T | Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """One value for all names, or what some of them have."""
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(names, value)


def export_best(
    store: Store, rows: Int[np.ndarray, " row"] | None, site: str, config: TrainConfig, folder: Path, subject: SubjectRef, base: Sae | None = None, *,
    init: Sae | None = None, silent: Store | None = None,
) -> Sae:
    """Save the best state of a training (train.best_every_steps) as an SAE in `best`, in inference form like the last one in `sae`.

    Raises:
        TrainingError: when none was kept, or the folder holds another training.
    """
    config = settle(config, init)
    job = Job(store, rows, site, subject, "", config, folder, base, init, silent)
    check_fit(job)
    found = read_checkpoint(folder / BEST)
    if found is None:
        raise TrainingError(asked=f"export the best SAE of {folder}", why=f"there is no whole {BEST} in it",
                            instead="train with train.best_every_steps set, for example to 100")
    with folder_lock(folder, asked=f"export the best SAE of {folder}"):
        claim_folder(job)
        device = resolve_device(config.device)
        data = TrainingData(stream([job], device), config, None if base is None else copy.deepcopy(base).to(device))
        state = make_state(config, data, init)
        state.restore(*found)
        record = finish(job, state, data)
        save_sae(state.sae.cpu(), record, folder / "best")
    return load_sae(folder / "best")


def _train(jobs: list[Job], progress: Progress) -> dict[str, Sae]:
    for job in jobs:
        check_fit(job)
        check_installed(job.config.log_to)
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(folder_lock(job.folder, asked=f"train in {job.folder}"))
        for job in jobs:
            claim_folder(job)
        todo = [job for job in jobs if not (job.folder / "sae").exists()]
        stopped = _work(todo, stack, progress) if todo else {}
        for job in jobs:
            if job.name not in stopped:
                Checkpoints(job.folder / "checkpoints", 0).remove()
    if len(jobs) == 1 and stopped:
        raise next(iter(stopped.values()))
    if stopped:
        words = "; ".join(f"{name} could not {err.asked}: {err.why}" for name, err in stopped.items())
        raise TrainingError(asked=f"train {len(stopped)} of {len(jobs)} SAEs to the end", why=words,
                            instead="change what is said there for these, in a new folder; the others are finished and saved")
    return {job.name: load_sae(job.folder / "sae") for job in jobs}


def _work(jobs: list[Job], stack: ExitStack, progress: Progress) -> dict[str, TrainingError]:
    """Train and save; the errors of those that had to stop."""
    device, stopped = resolve_device(jobs[0].config.device), dict[str, TrainingError]()
    frozen = {id(job.base): copy.deepcopy(job.base).to(device) for job in jobs if job.base is not None}
    before, whole = 0, tokens_of(jobs)
    for group in by_store(jobs):
        rows = stream(group, device)
        stack.callback(rows.close)
        trainings = [begin(job, rows, frozen.get(id(job.base)), stack) for job in group]
        train_loop(trainings, rows, partial(in_turn, progress, before, whole))
        before += tokens_of(group)
        for job, training in zip(group, trainings, strict=True):
            if training.stopped is None:
                record = finish(job, training.state, training.data)
                save_sae(training.state.sae.cpu(), record, job.folder / "sae")
            else:
                stopped[training.name] = training.stopped
    return stopped


def by_store(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs of one store together: each store is streamed once."""
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        groups.setdefault(id(job.store), []).append(job)
    return list(groups.values())


def tokens_of(jobs: Iterable[Job]) -> int:
    return sum(job.config.n_steps * job.config.batch_tokens for job in jobs)


def in_turn(progress: Progress, before: int, whole: int, done: float, total: float, note: str = "") -> None:  # noqa: ARG001
    """Progress of one of several streams that come one after the other."""
    progress(before + done, whole, note)


def stream(jobs: Iterable[Job], device: torch.device) -> Rows:
    """The rows that some SAEs train on."""
    first, *_ = jobs = list(jobs)
    targets = tuple(sorted({job.config.target_site for job in jobs if job.config.target_site}))
    return Rows(first.store, first.site, first.rows, first.config.batch_tokens, first.config.data_seed, device, targets,
                first.silent, first.config.n_silent)


def begin(job: Job, rows: Rows, base: Sae | None, stack: ExitStack) -> Training:
    """A training at the step where it stands in its folder."""
    config, data = job.config, TrainingData(rows, job.config, base)
    checkpoints = Checkpoints(job.folder / "checkpoints", config.checkpoint_every_s, config.keep_checkpoints)
    state = make_state(config, data, job.init)
    checkpoints.restore(state)
    path = job.folder / "log.jsonl"
    seen = max((line["step"] for line in read_log(path)), default=0)
    name = job.name or job.folder.resolve().name
    digest = hashlib.sha256(canonical_json([str(job.folder.resolve()), job.identity()]).encode()).hexdigest()[:16]
    trackers = open_trackers(config.log_to, TrackedRun(name, digest, job.folder, config.model_dump(mode="json"), state.step, seen))
    log = stack.enter_context(TrainingLog(path, state.step, trackers))
    return Training(job.name, config, state, data, checkpoints, log)


def make_state(config: TrainConfig, data: TrainingData, init: Sae | None = None) -> TrainState:
    """The state before the first step. A residual SAE has no decoder bias, so that it adds something only where a latent fires."""
    sizes, site = data.rows.store.manifest.sites, data.rows.site
    d_in = sizes[site]
    if init is None:
        sae = Sae(d_in, n_latents_for(config, d_in), subtract_b_dec=data.is_plain, d_out=sizes[config.target_site or site], skip=config.skip)
        initialize(sae, data.scaling.b_dec, torch.Generator().manual_seed(config.seed), tied=config.tied_init and config.target_site is None)
    else:
        sae = start_from(init, config, data)
    sae.product_dtype = torch.bfloat16 if config.autocast == "bf16" else None
    state = TrainState(sae.to(data.rows.device), config)
    if init is not None:
        state.forward.take_over(sae)
    return state


def finish(job: Job, state: TrainState, data: TrainingData) -> SaeRecord:
    """Find the inference form, measure l0 with it, fold the scales into the weights, and write down what came of it."""
    sae, scaling, config = state.sae, data.scaling, job.config
    sae.product_dtype = None
    state.forward.calibrate(sae, data.inputs(config.n_steps, CALIBRATION_BATCHES))
    counts = [len(sae.encode(x).values) for x in data.inputs(config.n_steps + CALIBRATION_BATCHES, CALIBRATION_BATCHES)]
    l0 = sum(counts) / (CALIBRATION_BATCHES * config.batch_tokens)
    sae.fold(scaling.into, scaling.out_of)
    if job.init is not None and state.n_frozen:
        put_back(sae, copy.deepcopy(job.init).to(sae.W_dec.device), config)
    per = "tokens and dimensions" if config.objective.mse == "mean" else "tokens, summed over dimensions,"
    has_k = "k" in ARCHITECTURES[config.architecture].settings
    return SaeRecord(
        architecture=config.architecture, role="base" if job.base is None else "residual", site=job.site, subject=job.subject,
        store_fingerprint=job.store.fingerprint, d_in=sae.d_in, n_latents=sae.n_latents, k=config.k if has_k else config.objective.l0_target, l0=l0,
        n_dead=len(state.dead.indices()), dead_after_tokens=config.dead_after_tokens, n_tokens_seen=state.step * config.batch_tokens,
        normalization=str(scaling), loss_scale=f"mean over {per} of the scaled target (train.normalize = {config.normalize})",
        config=config.model_dump(mode="json"), parents=[part.weights_hash() for part in (job.base, job.init) if part is not None],
        target_site=config.target_site, topk_threshold=None if sae.k is None else float(sae.threshold[0]),
        notes=notes_on(job),
    )


def resolve_device(name: str) -> torch.device:
    """The device that a config asks for.

    Raises:
        ConfigError: when this machine has none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:
        raise ConfigError(asked=f"train on train.device = {name!r}", why=str(err).splitlines()[0], instead="use auto or cpu") from None
    return device
