"""A finished run in hand: its subject, SAEs and cards, and edits of its features.

    run = sl.open_run("runs/demo")
    with run.edit("residual/12", "clamp", 2, unit="max") as model:
        model.generate(...)

Owns: which SAE a feature's name means, and the reference values of amounts, measured on the run's own stores and kept in the edit. Refuses: runs that are not
trained, features and SAEs that it does not have, edits that were made for another subject.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sparselight.errors import ConfigError, RunError, nearest
from sparselight.interpret import Catalogue, load_catalogue
from sparselight.intervene.edit import Edits, as_edits, check_edit, edit_functions
from sparselight.intervene.generate import Written, generate_with
from sparselight.intervene.operations import unit_of
from sparselight.intervene.scales import measure_scales
from sparselight.intervene.session import editing
from sparselight.intervene.splice import Splice
from sparselight.pipeline.evaluation_sources import open_run as open_stages
from sparselight.pipeline.explaining import run_catalogue
from sparselight.protocols import Example
from sparselight.records import Card, Condition, Edit, EditSet, Where
from sparselight.records.display import Shown, drawn
from sparselight.sae import Sae, load_sae
from sparselight.store import FolderStore
from sparselight.subjects import HuggingFaceSubject

SAES = {"base": ("train", "sae"), "residual": ("residual", "sae"), "stitched": ("residual", "stitched"), "control": ("residual", "control/sae")}
"""Name to the stage and the folder in it."""
REFERENCE_STORES = ("general_train", "domain_train")
REFERENCE_TOKENS = 100_000  # of each store, evenly spread


def open_run(folder: str | Path) -> "OpenRun":
    """Open a run folder whose SAEs are trained.

    Raises:
        RunError: when there is none, or it is not that far.
    """
    return OpenRun(Path(folder))


class OpenRun:
    """A run folder, read only; everything is loaded when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stages = open_stages(folder)
        self._saes: dict[str, Sae] = {}

    def __repr__(self) -> str:
        return f"OpenRun({self.folder}: {self.stages.recipe.subject.source} at {self.site}, SAEs {', '.join(self.sources)})"

    @property
    def site(self) -> str:
        return self.stages.site

    @cached_property
    def subject(self) -> HuggingFaceSubject:
        return self.stages.subject

    @property
    def model(self) -> Any:
        """The subject's Hugging Face model."""
        return self.subject.model

    @property
    def sources(self) -> list[str]:
        """Names of its SAEs."""
        return [name for name in SAES if self._sae_folder(name).is_dir()]

    def sae(self, name: str = "base") -> Sae:
        """One of its SAEs.

        Raises:
            RunError: when it has none of that name.
        """
        if name not in self.sources:
            raise RunError(asked=f"use the SAE {name!r} of {self.folder}", why="the run has none of that name", instead=nearest(name, self.sources))
        if name not in self._saes:
            self._saes.setdefault(name, load_sae(self._sae_folder(name)))  # of two threads both get the first one's
        return self._saes[name]

    @cached_property
    def catalogue(self) -> Catalogue:
        """The cards of its latents, to be searched.

        Raises:
            RunError: when its stage explain is not finished.
        """
        return run_catalogue(self.folder)

    @cached_property
    def cards(self) -> list[Card]:
        """All of them.

        Raises:
            RunError: when its stage explain is not finished.
        """
        return load_catalogue(self.catalogue.path)

    def show(self, n_features: int = 24, features: Sequence[str] = ()) -> Shown:
        """The run as a notebook shows it: overview, list of features, some of their pages, with search.

        Args:
            n_features: how many features have a page.
            features: which have one in any case, such as `base/12`.

        Raises:
            RunError: when its stage explain is not finished.
        """
        return drawn("run", self, n_features=n_features, features=tuple(features))

    def edit(
        self, what: Edits | int | Sequence[int | str], operation: str = "ablate", amount: float = 0.0, *, unit: str = "absolute",
        where: Where | str | None = None, condition: Condition | None = None, splice: str = "keep_error", source: str = "base", title: str = "",
    ) -> "RunEdit":
        """An edit of features of this run, to be entered (`with run.edit(...) as model`), generated with, saved.

        Args:
            what: features, `residual/12` or the number of a latent of `source`, one or several; or an edit, several, or their file.
            operation: ablate, ablate_mean, clamp, scale, add.
            amount: in multiples of `unit`: absolute, max, mean, active_mean, q99 (the latent's own, measured on the run's stores).
            where: which tokens; `generated`, `prompt` and `last` may be given by name.

        Raises:
            ConfigError: when it cannot be honored.
            RunError: when the run lacks what it names.
        """
        if _are_edits(what):
            if (operation, amount, unit, where, condition, splice) != ("ablate", 0.0, "absolute", None, None, "keep_error"):
                raise ConfigError(asked="apply an edit as it is and otherwise too", why="operation, amount, unit, where, condition and splice stand in it",
                                  instead="leave those out, or name features")
            edits = as_edits(what)  # type: ignore[arg-type]
            self._check_subject(what)
        else:
            features = [what] if isinstance(what, int | str) else list(what)  # type: ignore[arg-type]
            chosen = self._where(where)
            fields = {"operation": operation, "amount": float(amount), "unit": unit, "where": chosen, "condition": condition, "splice": splice}
            by_source: dict[str, list[int]] = {}
            for feature in features:
                name, latent = self.latent(feature, source)  # type: ignore[arg-type]
                by_source.setdefault(name, []).append(latent)
            edits = [Edit(site=self.site, latents=latents, source=name, **fields) for name, latents in by_source.items()]
        ready = [self._ready(edit if edit.source else edit.model_copy(update={"source": source})) for edit in edits]
        return RunEdit(self, EditSet(edits=ready, subject=self.subject.ref(), title=title))

    def latent(self, feature: int | str, source: str = "base") -> tuple[str, int]:
        """Which SAE and latent a feature's name means.

        Raises:
            ConfigError: when it is no such name.
        """
        name, slash, number = feature.rpartition("/") if isinstance(feature, str) else (source, "/", str(feature))
        if not number.isdigit() or not (name or source):
            raise ConfigError(asked=f"edit the feature {feature!r}", why="that is no feature's name", instead="write residual/12, or the number of a latent")
        name = name if slash else source
        n = self.sae(name).n_latents
        if int(number) >= n:
            raise ConfigError(asked=f"edit the feature {feature!r}", why=f"{name} has {n} latents", instead=f"give one from 0 to {n - 1}")
        return name, int(number)

    def reference_rows(self) -> Iterator[Tensor]:
        """Stored activations, general and domain, on which reference values are measured.

        Raises:
            RunError: when the stores are gone.
        """
        found = False
        for name in REFERENCE_STORES:
            folder = self.stages.run.path("harvest") / name
            if not folder.is_dir():
                continue
            found, store = True, FolderStore.open(folder)
            rows = np.unique(np.linspace(0, store.n_tokens - 1, min(store.n_tokens, REFERENCE_TOKENS)).astype(np.int64))
            for first in range(0, len(rows), 16_384):
                yield store.read(rows[first:first + 16_384], self.site)
        if not found:
            raise RunError(asked=f"measure amounts in units of a latent's own activations in {self.folder}", why="its stores are gone",
                           instead="run its stage harvest again, give the edit its scales, or use unit = 'absolute'")

    def _ready(self, edit: Edit) -> Edit:
        sae = self.sae(edit.source)
        if unit_of(edit) != "absolute" and not edit.scales:
            check_edit(edit.model_copy(update={"scales": [1.0] * len(edit.latents)}), sae)  # before the stores are read
            edit = measure_scales(edit, sae, self.reference_rows())
        check_edit(edit, sae)
        return edit.model_copy(update={"weights": sae.weights_hash()})

    def _check_subject(self, what: Any) -> None:
        made = EditSet.load(Path(what)) if isinstance(what, str | Path) and '"edit_set"' in Path(what).read_text(encoding="utf-8")[:100] else what
        if isinstance(made, EditSet) and made.subject is not None and made.subject.fingerprint != self.subject.fingerprint:
            raise RunError(asked=f"apply edits that were made for {made.subject.name} to {self.subject.name}", why="weights, tokenizer or token policy differ",
                           instead="open a run of that subject")

    def _where(self, where: Where | str | None) -> Where:
        if not isinstance(where, str):
            return where or Where()
        known = ("counted", "prompt", "generated", "last")
        if where not in known:
            raise ConfigError(asked=f"edit where = {where!r}", why="there is no such place", instead=f"{nearest(where, known)}, or give a Where(...)")
        return Where(tokens=where)

    def _sae_folder(self, name: str) -> Path:
        stage, inside = SAES[name]
        return self.stages.run.path(stage) / inside


class RunEdit:
    """Edits with the run that they belong to."""

    def __init__(self, run: OpenRun, edits: EditSet):
        self.run, self.edits = run, edits
        self._entered: list[contextlib.ExitStack] = []

    def __repr__(self) -> str:
        return f"RunEdit({'; '.join(map(repr, self.functions.values()))})"

    @property
    def coders(self) -> dict[str, Sae]:
        """The SAEs that the edits, and their conditions, name."""
        names = [name for edit in self.edits.edits for name in (edit.source, edit.condition.source if edit.condition else "") if name]
        return {name: self.run.sae(name) for name in dict.fromkeys(names)}

    @cached_property
    def functions(self) -> dict[str, Splice]:
        """What `subject.predict`, `loss` and `generate` take as edits."""
        return edit_functions(self.edits, self.coders)

    def save(self, path: str | Path) -> Path:
        """Write the edits as JSON; `run.edit(path)` does the same again."""
        self.edits.save(Path(path))
        return Path(path)

    def session(self, any_thread: bool = False) -> contextlib.AbstractContextManager[Any]:
        """As `with run.edit(...)`; with `any_thread`, for streamers that generate in a thread of their own."""
        return editing(self.run.subject, self.functions, any_thread=any_thread)

    def generate(self, prompts: str | Example | Sequence[str | Example], n_tokens: int = 40, temperature: float = 0.0,
                 seeds: Sequence[int] = (0,)) -> list[tuple[Written, Written]]:
        """Each prompt with each seed, without and with the edit."""
        given = [prompts] if isinstance(prompts, str | Example) else list(prompts)
        found = generate_with(self.run.subject, given, [None, self.edits], self.coders, n_tokens, temperature, seeds)
        plain, edited = ([one for one in found if one.edit == number] for number in (0, 1))
        return list(zip(plain, edited, strict=True))

    def __enter__(self) -> Any:
        stack = contextlib.ExitStack()
        model = stack.enter_context(self.session())
        self._entered.append(stack)
        return model

    def __exit__(self, *exception: Any) -> None:
        self._entered.pop().__exit__(*exception)


def _are_edits(what: Any) -> bool:
    if isinstance(what, str):
        return what.endswith(".json")
    if isinstance(what, Edit | EditSet | Path):
        return True
    return not isinstance(what, int) and all(isinstance(one, Edit) for one in what) and bool(what)
