"""Running metric families over a case: every coder, its controls and both ablations through the same code, on the same held-out tokens.

Owns: what a family needs and whether it is there, the control columns, the order and cost of families, what of an earlier evaluation in the
same folder still holds, and the record made of it all. Refuses: reserved or missing coder names, transcoders, coders of another width, and
families asked for by name whose needs are not met; those of a suite are listed as not measured instead.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.config import canonical_json
from sparselight.errors import ConfigError, CorpusError, SaeError, SubjectError, nearest
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import CONTROL_ROWS, MeanCoder, ZeroCoder, standard_controls
from sparselight.evaluate.family import MEAN, SUBJECT, ZERO, Family
from sparselight.evaluate.findings import Findings
from sparselight.evaluate.finished import FamilyRecord, load_family, plain_values, save_family, source_hash, write_tables
from sparselight.evaluate.identity import coder_hash, examples_hash, ids_hash, values_hash
from sparselight.evaluate.sheet import Sheet, flat_table
from sparselight.evaluate.statistics import Resamples
from sparselight.evaluate.suite import Choice, EvaluateConfig, choose, suites_of
from sparselight.files import folder_lock
from sparselight.protocols import Example, Progress, Subject, no_progress
from sparselight.records import EvalRecord, EvaluatedCoder, EvaluatedData, FamilyRun, UndefinedValue

NOT_THERE = (CorpusError, ConfigError, SubjectError)
"""Errors of a family that do not end the evaluation of a suite: it is listed as not measured."""

# What a family may need -> why it is not measured without, what to do.
NEEDS: dict[str, tuple[str, str]] = {
    "subject": ("it runs the subject, and none is given", "give --subject and --corpus, or leave it out of evaluate.suite"),
    "examples": ("it needs held-out tokens, and none are given", "give --held-out or --corpus, or leave it out of evaluate.suite"),
    "annotations": ("no example carries an annotation", "give a corpus with spans or labels (corpus.spans, corpus.example_labels), or leave it out of "
                    "evaluate.suite"),
    "several": ("it compares SAEs, and there is only one", "give two SAEs or more, or leave it out of evaluate.suite"),
}


def evaluate(
    coders: Mapping[str, Contender], subject: Subject, datasets: Mapping[str, Sequence[Example]], site: str, mean: Float[Tensor, " d_in"],
    config: CaseConfig = CaseConfig(), progress: Progress = no_progress, base: str = "base",  # noqa: B008 (frozen)
    pairs: Sequence[tuple[str, str]] = (),
) -> EvalRecord:
    """Reconstruction and behaviour of coders on held-out examples, beside the unedited subject, zero ablation and mean ablation.

    Args:
        coders: by name; controls are marked as such.
        datasets: held-out examples by name (`general`, `domain`).
        mean: mean training activation at the site.
        pairs: further differences, each (coder, reference).
        base: the coder to which differences are taken: `coder - base` for every metric both have, and fvu_change_frac.

    Raises:
        ConfigError: for a reserved coder name, a base that is not there, or no dataset.
        CorpusError: for a dataset without tokens.
        SaeError: for a coder of another width, or whose reconstruction is not finite.
    """
    if not datasets:
        raise ConfigError(asked="evaluate", why="there is no dataset", instead="give held-out examples by name, for example {'general': examples}")
    settings = EvaluateConfig.parse({**config.model_dump(mode="json"), "suite": "reconstruction,behaviour", "controls": False}, "evaluate")
    case = Case(site, {name: Dataset(name, (), examples) for name, examples in datasets.items()}, settings, subject)
    return run_suite(case, coders, settings, base=base, pairs=pairs, mean=mean, progress=progress)


def run_suite(
    case: Case, coders: Mapping[str, Contender], config: EvaluateConfig, *, base: str | None = None, pairs: Sequence[tuple[str, str]] = (),
    mean: Float[Tensor, " d_in"] | None = None, sources: Mapping[str, str] | None = None, notes: Sequence[str] = (), folder: Path | None = None,
    progress: Progress = no_progress,
) -> EvalRecord:
    """Measure what `config.suite` names.

    Args:
        coders: by name, controls of the caller's own among them; those of `config.controls` are added.
        base: to which differences are taken and after which controls are shaped; the first coder where left out.
        pairs: further differences, each (coder, reference).
        mean: the vector of mean ablation; that of the fit side where left out.
        sources: coder to the folder that it was read from, for the record.
        notes: what the caller has to say about the data.
        folder: where the record, tables and finished families are kept; the latter are found again.

    Raises:
        ConfigError: for names that are reserved, missing or unknown, or a family asked for by name that cannot be measured.
        CorpusError: for a dataset without tokens.
        SaeError: for a coder of another width, or whose reconstruction is not finite.
    """
    base = base if base is not None else next(iter(coders), "")
    check_coders(case, coders, [base, *(name for pair in pairs for name in pair)], mean)
    evaluation = _Evaluation(case, dict(coders), config, base, list(pairs), mean, dict(sources or {}), folder, list(notes))
    if folder is None:
        return evaluation.run(choose(config.suite), progress)
    with folder_lock(folder, asked=f"evaluate into {folder}"):
        record = evaluation.run(choose(config.suite), progress)
        write_tables({"values": flat_table(record), **evaluation.tables()}, folder)
        record.save(folder / "evaluation.json")
    return record


def unmet(case: Case, coders: Mapping[str, Contender], family: Family) -> str:
    """What a family needs that is not there; empty where all is."""
    there = {
        "subject": lambda: case.subject is not None,
        "examples": lambda: bool(case.datasets),
        "annotations": lambda: any(dataset.annotate is not None or any(example.spans or example.labels for example in chain(dataset.fit, dataset.held_out))
                                   for dataset in case.datasets.values()),
        "several": lambda: sum(not coder.is_control and coder.sparse is not None for coder in coders.values()) > 1,
    }
    return next((NEEDS[need][0] for need in family.needs if not there[need]()), "")


@dataclass
class _Evaluation:
    """One evaluation as it goes on."""

    case: Case
    coders: dict[str, Contender]
    config: EvaluateConfig
    base: str
    pairs: list[tuple[str, str]]
    mean: Float[Tensor, " d_in"] | None
    sources: dict[str, str]
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    runs: dict[str, FamilyRun] = field(default_factory=dict)
    done: dict[str, tuple[FamilyRecord, Findings]] = field(default_factory=dict)
    _contenders: dict[str, Contender] = field(default_factory=dict)
    _control_notes: list[str] = field(default_factory=list)

    def run(self, choices: Sequence[Choice], progress: Progress) -> EvalRecord:
        if self.config.controls and not self._has_fit():
            self.notes.append("no controls were measured, because there are no examples to fit them on")
        self.case.annotated = False  # until a family asks: Python's token classes cost seconds
        shares = [1.0 + choice.family.passes * (len(self.coders) + 4) for choice in choices]
        for number, choice in enumerate(choices):
            name, before = choice.family.name, sum(shares[:number])

            def report(done: float, total: float, note: str = "", name: str = name, before: float = before, share: float = shares[number]) -> None:
                progress(before + share * min(done / max(total, 1e-9), 1.0), sum(shares), f"{name}: {note}" if note else name)

            self._family(choice, report)
            report(1, 1)
        return self._record()

    def _family(self, choice: Choice, progress: Progress) -> None:
        """Find a family finished, measure it, or say why not."""
        family = choice.family
        settings = getattr(self.config, family.name)
        why = unmet(self.case, self.coders, family)
        if why and choice.by_name:
            raise ConfigError(asked=f"measure {family.name}", why=why, instead=dict(NEEDS.values())[why])
        if why:
            self.runs[family.name] = FamilyRun(title=family.title, not_measured=why)
            return
        digest = self._digest(family, settings.model_dump(mode="json"))
        place = None if self.folder is None or digest is None else self.folder / "families" / f"{family.name}-{digest[:10]}"
        found = None if place is None or digest is None else load_family(place, digest)
        if found is None:
            try:
                found = self._measure(family, settings, digest or "", progress)
            except NOT_THERE as err:
                if choice.by_name or family.name in self.config.model_fields_set:
                    raise
                self.runs[family.name] = FamilyRun(title=family.title, not_measured=err.why, config=settings.model_dump(mode="json"))
                return
            if place is not None:
                found = save_family(*found, place), found[1]
        record = found[0]
        self.done[family.name] = found
        self.runs[family.name] = FamilyRun(
            title=family.title, seconds=record.seconds, passed_tokens=record.passed_tokens, config=record.config, hash=record.hash,
            folder=None if place is None or self.folder is None else place.relative_to(self.folder).as_posix(),
            tables=[f"tables/{family.name}.{name}.parquet" for name in record.tables] if place is not None else [])

    def _measure(self, family: Family, settings: Any, digest: str, progress: Progress) -> tuple[FamilyRecord, Findings]:
        began, passed, findings = time.monotonic(), self.case.passed_tokens, Findings()
        if not family.plain:
            self.case.annotate()
        held_out = {name: self.case.tokens(name, "held_out") for name in self.case.datasets}
        contenders = self.contenders()
        chosen = {name: contender for name, contender in contenders.items() if family.ablations or name not in (ZERO, MEAN)}
        family.measure(self.case, chosen, settings, findings, progress)
        for cell, values in findings.resampled.items():
            assert np.shape(values) == (self.case.config.n_bootstrap + 1,), f"{family.name}: {cell} has the shape {np.shape(values)}"
        held_out |= {name: self.case.tokens(name, "held_out") for name in {cell.dataset for cell in findings.resampled} & self.case.added.keys()}
        undefined = [UndefinedValue(coder=cell.coder, dataset=cell.dataset, metric=cell.metric, setting=cell.setting, family=family.name, why=why)
                     for cell, why in findings.undefined.items()]
        return FamilyRecord(
            family=family.name, hash=digest, seconds=time.monotonic() - began, passed_tokens=self.case.passed_tokens - passed,
            config=settings.model_dump(mode="json"), values=plain_values(findings), undefined=undefined, notes=[*self._control_notes, *findings.notes],
            tables=list(findings.tables), coders={name: self._coder(contender) for name, contender in contenders.items()},
            datasets={name: self._data(name, tokens.n_tokens, len(tokens.groups)) for name, tokens in held_out.items()},
        ), findings

    def contenders(self) -> dict[str, Contender]:
        """Coders, controls and ablations, fitted when the first family that is not finished asks."""
        if not self._contenders:
            self._contenders = {**self.coders, **self._controls(), ZERO: Contender(ZeroCoder(), is_control=True)}
            mean = self.mean if self.mean is not None or not self._has_fit() else self._fit_sample().mean(0, dtype=torch.float64).float()
            if mean is not None:
                self._contenders[MEAN] = Contender(MeanCoder(mean), is_control=True)
        return self._contenders

    def _controls(self) -> dict[str, Contender]:
        if not self.config.controls or not self._has_fit():
            return {}
        base: Any = self.coders[self.base].coder
        controls = standard_controls(base, self._fit_sample(), self._which(), self.config.seed, self._control_notes)
        return {name: Contender(coder, is_control=True) for name, coder in controls.items()}

    def _which(self) -> str | list[str]:
        """The set of controls that goes with the suite, or those that are listed."""
        return self.config.controls if isinstance(self.config.controls, list) else "full" if "full" in suites_of(self.config.suite) else "core"

    def _has_fit(self) -> bool:
        return any(len(dataset.fit) for dataset in self.case.datasets.values())

    def _fit_sample(self) -> Float[Tensor, "token d_in"]:
        """Activations of the fit side of the first dataset that has one, evenly spaced, on which controls and the mean are fitted."""
        name = next(name for name, dataset in self.case.datasets.items() if len(dataset.fit))
        tokens = self.case.tokens(name, "fit")
        return tokens.read(np.unique(np.linspace(0, tokens.n_tokens - 1, CONTROL_ROWS).astype(np.int64)))

    def _coder(self, contender: Contender) -> EvaluatedCoder:
        record = getattr(contender.coder, "record", None)
        return EvaluatedCoder(is_control=contender.is_control, n_latents=contender.n_latents, weights=coder_hash(contender.coder),
                              site=record.site if record is not None else None)

    def _data(self, name: str, n_tokens: int, n_groups: int) -> EvaluatedData:
        dataset = self.case.dataset(name)
        stores = {f"{side}_store": None if store is None else store.fingerprint
                  for side, store in (("held_out", dataset.held_out_store), ("fit", dataset.fit_store))}
        return EvaluatedData(n_tokens=n_tokens, n_groups=n_groups, **self._examples(name), **stores)

    def _examples(self, name: str) -> dict[str, str]:
        dataset = self.case.dataset(name)
        sides = {"held_out": dataset.held_out, "fit": dataset.fit}
        hashes = {"": examples_hash, "_ids": ids_hash}
        return {f"{side}{ending}": self.case.once(("examples hash", name, side, ending), lambda part=part, digest=digest: digest(part))  # type: ignore[misc]
                for side, part in sides.items() for ending, digest in hashes.items()}

    def _digest(self, family: Family, settings: dict[str, Any]) -> str | None:
        """What a family's result depends on; None where a coder has no hash."""
        hashes = [(name, contender.is_control, coder_hash(contender.coder)) for name, contender in self.coders.items()]
        if any(weights is None for _, _, weights in hashes):
            return None
        case = self.case
        content = {
            "family": family.name, "version": FamilyRecord.VERSION, "config": settings, "code": source_hash(family.measure.__module__),
            "case": {name: getattr(self.config, name) for name in CaseConfig.model_fields}, "site": case.site, "coders": hashes, "base": self.base,
            "controls": [self._which(), source_hash("sparselight.evaluate.controls")] if self.config.controls else [], "mean": values_hash([self.mean]),
            "subject": "" if case.subject is None else case.subject.fingerprint,
            "data": {name: self._data(name, 0, 0).model_dump(mode="json") for name in case.datasets},
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def _record(self) -> EvalRecord:
        coders: dict[str, EvaluatedCoder] = {}
        datasets: dict[str, EvaluatedData] = {}
        for record, _ in self.done.values():
            coders |= {name: coder.model_copy(update={"source": self.sources.get(name)}) for name, coder in record.coders.items()}
            datasets |= record.datasets
        compared = [(name, self.base) for name in coders if name not in (self.base, ZERO, MEAN)]
        resamples = {name: Resamples.draw(data.n_groups, self.config.n_bootstrap, self.config.seed) for name, data in datasets.items()}
        sheet = Sheet(resamples, {name: coder.is_control for name, coder in coders.items()}, [*compared, *self.pairs])
        for name, (_, findings) in self.done.items():
            sheet.add(name, findings)
        stores = [store for dataset in self.case.datasets.values() for store in (dataset.held_out_store, dataset.fit_store) if store is not None]
        subject = self.case.subject.ref() if self.case.subject is not None else stores[0].manifest.subject if stores else None
        return EvalRecord(
            rows=sheet.rows, differences=sheet.differences, undefined=sheet.undefined, n_tokens={name: data.n_tokens for name, data in datasets.items()},
            notes=[*self.notes, *sheet.notes()], site=self.case.site, subject=subject, suite=self.config.suite, base=self.base,
            n_bootstrap=self.config.n_bootstrap, seed=self.config.seed, families=self.runs, coders=coders, datasets=datasets)

    def tables(self) -> dict[str, Any]:
        """All details, by file name."""
        return {f"tables/{family}.{name}": table for family, (_, findings) in self.done.items() for name, table in findings.tables.items()}


def check_coders(case: Case, coders: Mapping[str, Contender], compared: Sequence[str], mean: Float[Tensor, " d_in"] | None) -> None:
    """Refuse names and coders that cannot be evaluated together.

    Raises:
        ConfigError: for a name that is reserved, or compared and not there.
        SaeError: for a transcoder, or a mean of another width than the site.
    """
    for name in compared:
        if name not in coders:
            instead = nearest(name, coders) if coders else "give a coder of that name"
            raise ConfigError(asked=f"take differences to the coder {name!r}", why="it is not among the coders", instead=instead)
    for name in (SUBJECT, ZERO, MEAN):
        if name in coders:
            raise ConfigError(asked=f"evaluate a coder named {name!r}", why="that name is the evaluation's own", instead="give the coder another name")
    for name, contender in coders.items():
        if getattr(contender.coder, "is_transcoder", False):
            raise SaeError(asked=f"evaluate the coder {name!r} at {case.site!r}", why="it is a transcoder: it gives back other activations than it reads",
                           instead="evaluate an SAE that was trained without train.target_site")
    d_in = None if case.subject is None else case.subject.d_site(case.site)
    if mean is not None and d_in is not None and mean.shape != (d_in,):
        raise SaeError(asked=f"evaluate at {case.site!r} with a mean activation of shape {list(mean.shape)}", why=f"activations there have width {d_in}",
                       instead="give the mean of training activations of that site")
