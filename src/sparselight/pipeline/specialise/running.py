"""`sparselight specialise`: from a run or a recipe to trained variants, their measurements, a record and a page; gone on with by being run again.

    OUT/run, OUT/domain       what was made first, where nothing of it was there (sources.py)
    OUT/variants-HASH/NAME    every variant; HASH is of the settings and inputs that all share, so that further variants join those that are finished
    OUT/evaluation, evaluation_equal_l0, evaluation_budgets        OUT/cards-HASH
    OUT/specialisation.json, OUT/report.html

Refuses to work in a folder in which another process works or something else lies.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sparselight import __version__
from sparselight.config import canonical_json
from sparselight.errors import RunError
from sparselight.evaluate import Case
from sparselight.files import folder_lock
from sparselight.pipeline.engine import machine
from sparselight.pipeline.recipe import find_recipe
from sparselight.pipeline.specialise import measuring
from sparselight.pipeline.specialise.config import VARIANTS
from sparselight.pipeline.specialise.planning import Phases, SpecialisePlan, make_plan
from sparselight.pipeline.specialise.sources import Source, SpecialiseRecipe, make_source, read_recipe
from sparselight.pipeline.specialise.variants import advised_tokens, shared_hash, total_k, train_budgets, train_variants
from sparselight.protocols import Progress, no_progress
from sparselight.records import Card, EvalRecord, Part, SpecialisationRecord, VariantRecord
from sparselight.report.specialisation import SpecialisationData, write_specialisation
from sparselight.report.specialisation_words import headline
from sparselight.sae import Sae
from sparselight.select import seed_names
from sparselight.train.log import read_log

RECORD, REPORT, EVALUATION = "specialisation.json", "report.html", "evaluation.json"
STORES = ("general_train", "general_held_out", "domain_train", "domain_held_out")


class SpecialiseResult(Part):
    """What a specialization came to: the one object that `--json` prints."""

    folder: str
    headline: list[str]
    variants: dict[str, str]
    """Name to the folder of its SAE."""
    warnings: list[str]
    report: str
    record: SpecialisationRecord
    next_command: str


class SpecialiseRun:
    """A specialization ready to run.

    Args:
        source: a run folder, or a recipe by path or name.
        run: a run folder under a recipe, whose corpus, general stores and base SAE are used.
        overrides: `specialise.a=b`, `evaluate.a=b`, `explain.a=b`; of a recipe also `select.a=b` and, without a run, all other tables.
        base: a base SAE in place of the run's or of one to be trained.
        variants, budgets: settings of `specialise` by these names.

    Raises:
        ConfigError, RunError: for settings that do not fit, or a run that is not far enough.
    """

    def __init__(
        self, source: str, *, run: str | None = None, out: Path | None = None, overrides: Sequence[str] = (), base: str | None = None,
        variants: Sequence[str] | None = None, budgets: Sequence[int] | None = None,
    ):
        told = [*overrides]
        told += [] if variants is None else [f"specialise.variants={list(variants)}"]
        told += [] if budgets is None else [f"specialise.budgets={list(budgets)}"]
        told += [] if base is None else [f"base={canonical_json(base)}"]
        self.recipe, self.run_folder = read_recipe(source, run, told)
        self.own_domain = self.run_folder is not None and run is not None
        self.out = out or default_out(source, self.run_folder, self.own_domain)
        check_out(self.out)

    def plan(self) -> SpecialisePlan:
        """What run() would do."""
        return make_plan(self.recipe, self.run_folder, self.out, self.own_domain)

    def run(self, progress: Progress = no_progress) -> SpecialiseResult:
        """Do what is not yet done in the folder."""
        phases = Phases(self.recipe, progress, self.run_folder is None, self.own_domain)
        with folder_lock(self.out, asked=f"specialise into {self.out}"):
            with phases.part("sources") as report:
                source = make_source(self.recipe, self.run_folder, self.out, self.own_domain, report)
            return _Work(self.recipe, source, self.out, phases).run()


class _Work:
    """The work on sources that are complete."""

    def __init__(self, recipe: SpecialiseRecipe, source: Source, out: Path, phases: "Phases"):
        self.recipe, self.source, self.out, self.phases, self.config = recipe, source, out, phases, recipe.specialise
        self.base = source.base()
        self.stores = {name: source.store(name) for name in STORES}
        self.variants_folder = out / f"variants-{shared_hash(self.config, self.base, self.stores['general_train'], self.stores['domain_train'])}"

    def run(self) -> SpecialiseResult:
        domain = self.stores["domain_train"]
        with self.phases.part("variants") as report:
            saes = train_variants(self.base, domain, self.stores["general_train"], self.config, self.variants_folder, report)
        with self.phases.part("budgets") as report:
            budgets = train_budgets(self.base, domain, self.config, self.variants_folder / "budgets", report) if "boost" in saes else {}
        case = measuring.make_case(self.source)
        evaluation = self._measure("evaluation", case, saes, None)
        equal, at_equal = self._at_one_l0(saes)
        sizes = {f"boost, {n_tokens:,} tokens": n_tokens for n_tokens in budgets}
        amounts = dict(zip(sizes, budgets.values(), strict=True))
        on_budgets = self._measure("evaluation_budgets", None, {"base": self.base, **amounts, "boost": saes["boost"]}, measuring.FVU_ONLY) if sizes else None
        cards, catalogue, explained = self._cards(saes)
        record = SpecialisationRecord(
            name=self.recipe.name, subject=self.source.subject.ref(), site=self.source.site, d_in=self.base.d_in, base=self.source.base_place,
            variants=self._variant_records(saes, case, equal), n_tokens={name: store.n_tokens for name, store in self.stores.items()},
            advised_tokens=advised_tokens(self.config, self.base.d_in), k=total_k(self.base, domain, self.source.site, self.config),
            l0=None if at_equal is None or equal is None else equal.l0, budgets={**sizes, "boost": domain.n_tokens} if sizes else {},
            evaluation=f"evaluation/{EVALUATION}", equal_l0_evaluation=None if at_equal is None else f"evaluation_equal_l0/{EVALUATION}",
            budget_evaluation=None if on_budgets is None else f"evaluation_budgets/{EVALUATION}",
            cards=None if catalogue is None else self._relative(catalogue), explained=explained, config=self._tables(),
            selection={**self.source.selection(), "seeds": seed_names(self.recipe.select)}, corpus=dict(self.source.run.records["corpus"].summary),
            warnings=self._warnings(saes), wall_s=self.phases.seconds, machine=machine(), sparselight_version=__version__,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), report=REPORT)
        return self._finish(record, evaluation, at_equal, on_budgets, cards)

    def _at_one_l0(self, saes: Mapping[str, Sae]) -> tuple[measuring.EqualL0 | None, EvalRecord | None]:
        """The variants with their thresholds moved, and what was measured of them; the latter only where the base could be moved too."""
        if not self.config.equal_l0:
            return None, None
        equal = measuring.equal_l0(saes, self.source)
        return equal, self._measure("evaluation_equal_l0", None, equal.saes, measuring.CHEAP) if "base" in equal.saes else None

    def _measure(self, folder: str, case: Case | None, saes: Mapping[str, Sae], families: Sequence[str] | None) -> EvalRecord:
        """An evaluation in its folder.

        Args:
            case: shared with what follows; a case keeps codes by name, so SAEs that were changed need one of their own.
            families: only these of the suite.
        """
        config = self.recipe.evaluate if families is None else measuring.part_of(self.recipe.evaluate, families)
        sources = {name: self._folder(name) or "" for name in saes if name in VARIANTS}
        with self.phases.part(folder) as report:
            return measuring.measure(case or measuring.make_case(self.source), saes, config, self.out / folder, sources, report)

    def _cards(self, saes: Mapping[str, Sae]) -> tuple[list[Card], Path | None, str | None]:
        """Of the first variant with new latents beside the base's: `boost` where it was made, a control only where there is nothing else."""
        n_base = self.base.n_latents
        names = [name for name, sae in saes.items() if name != "scratch_domain" and sae.n_latents > n_base and sae.k is None]
        names.sort(key=lambda name: VARIANTS[name].is_control)  # stable
        if not names:
            return [], None, None
        with self.phases.part("cards") as report:
            cards, path = measuring.cards_of(self.source, names[0], saes[names[0]], n_base, self.out, report)
        return cards, path, names[0]

    def _variant_records(self, saes: Mapping[str, Sae], case: Case, equal: measuring.EqualL0 | None) -> dict[str, VariantRecord]:
        latents = measuring.read_table(self.out / "evaluation", "reconstruction.latents")
        found, is_measured = {}, equal is not None and "base" in equal.saes  # without the base there is nothing to compare with
        for name, sae in saes.items():
            about, n_base = VARIANTS[name], self.base.n_latents
            lines = read_log(self.variants_folder / name / "log.jsonl")
            found[name] = VariantRecord(
                what=about.what, trained_on=about.trained_on, is_control=about.is_control, n_latents=sae.n_latents, n_new=sae.n_latents - n_base,
                weights=sae.weights_hash(), folder=self._folder(name), n_tokens_seen=int(lines[-1]["tokens"]) if lines else 0, seconds=seconds_of(lines),
                drift=None if name == "base" else measuring.drift(name, sae, self.base, latents),
                new_latents=measuring.new_latents(case, name, sae, n_base), equal_l0="" if equal is None else equal.words[name],
                has_equal_l0=equal is not None and is_measured and name in equal.saes, notes=[] if sae.record is None else sae.record.notes)
        return found

    def _folder(self, name: str) -> str | None:
        """Where a variant lies, relative to the record."""
        for step in ("stitched", "sae"):
            if (self.variants_folder / name / step).exists():
                return self._relative(self.variants_folder / name / step)
        return None

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def _warnings(self, saes: Mapping[str, Sae]) -> list[str]:
        """What a reader must know before the numbers."""
        n_tokens, advised = self.stores["domain_train"].n_tokens, advised_tokens(self.config, self.base.d_in)
        found = []
        if n_tokens < advised:
            found.append(f"The domain has few tokens: {n_tokens:,} for training, where {advised:,} are advised for {self.config.n_new:,} new latents on "
                         f"{self.base.d_in:,} dimensions (24 for each weight of their encoder, scaled from arXiv 2507.12990). New latents may fit this text "
                         "alone, and general text may suffer.")
        if "boost" in saes and "boost_general" not in saes:
            found.append("No control was trained: without boost_general nothing says how much of the gain more latents alone would bring.")
        if aside := self.source.selection().get("seed_counts", {}).get("held_out", 0):
            found.append(f"{aside:,} more examples match the seeds and are held out: they say nothing of what the domain is.")
        return found

    def _tables(self) -> dict[str, Any]:
        return {name: getattr(self.recipe, name).model_dump(mode="json") for name in ("specialise", "select", "evaluate", "explain")}

    def _finish(
        self, record: SpecialisationRecord, evaluation: EvalRecord, equal: EvalRecord | None, budgets: EvalRecord | None, cards: list[Card],
    ) -> SpecialiseResult:
        data = SpecialisationData(record=record, evaluation=evaluation, equal=equal, budgets=budgets, cards=cards,
                                  coverage_bins=measuring.read_table(self.out / "evaluation", "coverage.coverage_bins"), next_command=self._next())
        write_specialisation(data, self.out / REPORT)
        record.save(self.out / RECORD)
        folders = {name: str(self.out / one.folder) if one.folder else self.source.base_place for name, one in record.variants.items()}
        return SpecialiseResult(folder=str(self.out), headline=headline(data), variants=folders, warnings=record.warnings, report=str(self.out / REPORT),
                                record=record, next_command=self._next())

    def _next(self) -> str:
        return f"sparselight compare {self.out / 'evaluation'}"


def seconds_of(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of the training steps of a log; those of steps after an interruption, which have no speed, at the mean of the others."""
    tokens = [0, *(line["tokens"] for line in lines)]
    timed = [(now - before, line["tokens_per_s"]) for line, before, now in zip(lines, tokens, tokens[1:], strict=False) if line.get("tokens_per_s")]
    if not timed:
        return None
    seconds = sum(n / speed for n, speed in timed)
    return seconds * tokens[-1] / sum(n for n, _ in timed)


def default_out(source: str, run: Path | None, own_domain: bool) -> Path:
    """Beside what it is made from: `specialise` in a run folder, with the recipe's name where it brings a domain; else runs/RECIPE."""
    if run is None:
        return Path("runs") / find_recipe(source).stem
    return run / (f"specialise-{find_recipe(source).stem}" if own_domain else "specialise")


def check_out(out: Path) -> None:
    """Refuse a folder in which something else lies.

    Raises:
        RunError: naming it.
    """
    known = ("run", "domain", "variants-*", "evaluation*", "cards-*", RECORD, REPORT, ".*")
    if out.is_file() or (out.is_dir() and any(not any(path.match(name) for name in known) for path in out.iterdir())):
        raise RunError(asked=f"specialise into {out}", why="it holds something else", instead="give a new folder, or that of an earlier call, with --out")
