"""The live part of one run: its subject and SAEs, loaded on first use and used by one thread.

    service = LiveService(folder, LiveConfig())
    answer = service.activations(request, stop)

Owns what is asked of them in which order, and what a run offers. Everything that runs the model is called by the worker's thread; the rest reads
files. Refuses: what the parts refuse.
"""

import time
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from sparselight.errors import ConfigError, RunError, SparselightError
from sparselight.interpret.renderers import ImageRenderer, renderer_for
from sparselight.intervene.edit import edit_functions
from sparselight.intervene.generate import check_reach
from sparselight.intervene.operations import UNITS
from sparselight.pipeline.explaining import modality_of
from sparselight.pipeline.opened import open_run
from sparselight.pipeline.recommending import trains_own
from sparselight.records import Context, Edit
from sparselight.serve.data.card import picture_address
from sparselight.serve.data.served import pathless
from sparselight.serve.live import compared, firing, models, writing
from sparselight.serve.live.config import LiveConfig
from sparselight.serve.live.corpus import RunExamples
from sparselight.serve.live.inputs import FIELDS, Given, read_input
from sparselight.serve.live.knobs import OPERATIONS, Knobs, in_words
from sparselight.serve.live.models import ActivationsAnswer, ActivationsRequest, EditAnswer, EditRequest, LiveInfo, LiveInput
from sparselight.serve.live.names import Names
from sparselight.serve.live.work import Stop, Worker
from sparselight.subjects.load import pick_device
from sparselight.subjects.recommender.folder import RECORD, load_recommender

LOADING_S = 600.0  # a subject may be large


class LiveService:
    """What a person may try on a run.

    Args:
        name: of the run in addresses, for its pictures.
        hide_paths: answers name no folder of this machine.

    Raises:
        RunError: when it is no run folder, or its SAEs are not trained.
        ConfigError: when the model cannot run as the settings say.
    """

    def __init__(self, folder: Path, config: LiveConfig, name: str = "", hide_paths: bool = False):
        self.folder, self.config, self.name, self.hide_paths = folder, config, name, hide_paths
        self.run = open_run(folder)
        self._set_up(config)
        self.modality = modality_of(self.run.stages)
        self.worker = Worker(config, folder.name)
        self.names, self.knobs = Names(self.run), Knobs(self.run, config.max_edits)
        self.examples = RunExamples(self.run, self.modality)
        self.is_ready = False
        self._loading: Future[None] | None = None

    def _set_up(self, config: LiveConfig) -> None:
        """Give the subject the device and the number format of these settings in place of the recipe's."""
        stages = self.run.stages
        changed = {name: value for name in ("device", "dtype") if (value := getattr(config, name)) is not None}
        if "dtype" in changed and trains_own(stages.recipe):
            raise ConfigError(asked=f"run a recommender with live.dtype = {config.dtype!r}", why="it computes in the number format of its file",
                              instead="leave live.dtype out")
        stages.recipe = stages.recipe.model_copy(update={"subject": stages.recipe.subject.model_copy(update=changed)})

    def info(self, edits_allowed: bool) -> LiveInfo:
        """What the trial page offers; loads no model."""
        record = self._record
        field = FIELDS[self.modality]
        reads_user = record.kind == "recommender" and record.token_policy.pooling == "last"
        if reads_user or (self.modality == "image" and record.kind != "image_text"):
            field = "example"
        limits = {name: float(value) for name, value in self.config.model_dump(exclude={"device", "dtype", "trust_remote_code"}).items()}
        return LiveInfo(
            modality=self.modality, input=field, writes=writing.what_it_writes(record.kind), sources=self.sources(),
            operations=OPERATIONS, units=list(UNITS), edits_allowed=edits_allowed, ready=self.is_ready, problem=self.problem, limits=limits,
            beginning=self._beginning,
        )

    def sources(self) -> list[str]:
        """SAEs that are asked where a request names none: those with cards, or all."""
        with_cards = [name for name in self.names.sources() if name in self.run.sources]
        return with_cards or [name for name in self.run.sources if name in ("base", "residual")] or self.run.sources

    def begin_loading(self) -> None:
        """Have the worker load what is not loaded, once."""
        if not self.is_ready and (self._loading is None or (self._loading.done() and self._loading.exception() is not None)):
            self._loading = self.worker.submit(self.load, time_limit_s=LOADING_S)

    @property
    def problem(self) -> str:
        """Why loading failed, empty where it did not."""
        failed = self._loading.exception() if self._loading is not None and self._loading.done() and not self._loading.cancelled() else None
        if isinstance(failed, SparselightError):
            words = f"{failed.why}: {failed.instead}"
            return pathless(words) if self.hide_paths else words
        return "the model cannot be loaded: what the server prints when it is tried says why" if failed is not None else ""

    def load(self, stop: Stop | None = None) -> None:
        """Load subject and SAEs where they are not yet; the time of a request counts from then on."""
        if self.is_ready:
            return
        subject = self.run.stages.recipe.subject
        if subject.trust_remote_code and not self.config.trust_remote_code:
            raise ConfigError(asked=f"try the features of {self.folder.name}", why=f"that runs the Python code of {subject.source}",
                              instead="read that code, then serve with --set live.trust_remote_code=true")
        if trains_own(self.run.stages.recipe):
            self.run.__dict__["subject"] = self._own_recommender()  # in place of the property, which would train what is missing
        device = self.run.subject.device
        for source in self.sources():
            self.run.sae(source).to(device)
        self.is_ready = True
        if stop is not None:
            stop.begin()

    def activations(self, request: ActivationsRequest, stop: Stop) -> ActivationsAnswer:
        """Which features fire where on an input.

        Raises:
            ConfigError: for an input, an SAE or a feature that cannot be used.
        """
        self.load(stop)
        began = time.perf_counter()
        if request.top > self.config.max_top:
            raise ConfigError(asked=f"show {request.top} features", why=f"live.max_top = {self.config.max_top}", instead="ask for fewer")
        sources = list(dict.fromkeys(request.sources)) or self.sources()
        asked = firing.check_features(self.run, request.features, sources)
        with stop.watching(self.run.subject.model):
            given = self._given(request.input)
            fired = firing.find_fired(self.run, self.names, given, sources)
        stop.check()
        wanted = firing.wanted_features(request, asked, fired)
        return ActivationsAnswer(
            modality=self.modality, tokens=firing.token_list(given, fired, request.per_token), features=firing.describe(given, fired, wanted, self._html),
            n_firing={source: len(set(own.latent.tolist())) for source, own in fired.items()},
            html=self._html(given.context([0.0] * len(given.tokens))), text=given.example.text, notes=given.notes,
            took_ms=1000 * (time.perf_counter() - began),
        )

    def edit(self, request: EditRequest, stop: Stop) -> EditAnswer:
        """The same input without and with edits.

        Raises:
            ConfigError: for an input or an edit that cannot be honored.
        """
        self.load(stop)
        began = time.perf_counter()
        subject = self.run.subject
        kind = writing.what_it_writes(subject.ref().kind)
        n_tokens = writing.tokens_to_write(request, kind, self.config)
        with stop.watching(subject.model):
            given = self._given(request.input)
            edits = self.knobs.edits(request)
            functions = edit_functions(edits, {edit.source: self.run.sae(edit.source) for edit in edits})
            stop.check()
            check_reach(edits, subject, [given.example], generates=kind in ("text", "sequence"))
            found = compared.predictions(subject, given, functions, self.config.max_logits)
            answer = self._written(given, functions, request, n_tokens, found, stop)
        answer |= {"edits": [in_words(edit) for edit in edits], "record": self._saved(edits), "notes": given.notes}
        return EditAnswer(modality=self.modality, **answer, took_ms=1000 * (time.perf_counter() - began))

    def find_items(self, text: str, limit: int) -> models.ItemsAnswer:
        """Items whose title or id holds a text, case ignored; beginnings first.

        Raises:
            ConfigError: when the subject has no items.
        """
        if self._record.kind != "recommender":
            raise ConfigError(asked="search items", why=f"the subject is a {self._record.kind}, which has none", instead="open a run of a recommender")
        self.load()
        items, wanted = cast("Any", self.run.subject).items, text.strip().casefold()
        found = [number for number, title in enumerate(items.titles) if wanted in title.casefold() or wanted == items.ids[number].casefold()]
        found.sort(key=lambda number: not items.titles[number].casefold().startswith(wanted))
        listed = [models.FoundItem(item=items.ids[number], title=items.titles[number], marks=writing.marks_of(items, number)) for number in found[:limit]]
        return models.ItemsAnswer(items=listed, n_found=len(found))

    def find_examples(self, text: str, limit: int) -> models.ExamplesAnswer:
        """Held-out examples whose id or text holds a text."""
        listed, n_found = self.examples.search(text, limit)
        return models.ExamplesAnswer(examples=listed, n_found=n_found)

    def close(self) -> None:
        """Let the thread end."""
        self.worker.close()

    def _html(self, context: Context) -> str:
        """An input as its modality is shown; pictures at this server's address."""
        renderer = ImageRenderer(picture_address(self.name)) if self.modality == "image" else renderer_for(self.modality)
        return renderer.html(context)

    def _given(self, given: LiveInput) -> Given:
        return read_input(given, self.run.subject, self.modality, self.examples, self.config)

    def _written(self, given: Given, edits: writing.Functions, request: EditRequest, n_tokens: int, found: compared.Predictions,
                 stop: Stop) -> dict[str, Any]:
        """What was written, and what the predictions say."""
        subject: Any = self.run.subject
        kind, divergence = writing.what_it_writes(subject.ref().kind), found.kl()
        prompt, before, after, ranking = given.example.text, None, None, None
        if kind == "text" and n_tokens:
            prompt, before, after = writing.continue_text(subject, given, edits, request, n_tokens)
        elif kind == "sequence" and len(divergence):
            prompt, before, after = writing.fill_in(subject, given, edits, request, n_tokens, self.config, divergence)
        elif kind == "ranking":
            ranking = writing.rank_items(subject, given, edits, request.top)
        stop.check()
        shown = int(divergence.argmax()) if kind == "sequence" and len(divergence) else len(given.tokens) - 1
        listed = [] if kind == "ranking" else compared.candidates(found, shown, subject.token_text, request.top)
        mean = float(divergence.mean()) if len(divergence) else None
        return {
            "kind": kind, "prompt": prompt, "before": before, "after": after, "ranking": ranking, "candidates": listed,
            "places": compared.changed_places(found, given, subject.token_text, divergence), "kl_nats": compared.finite(divergence),
            "mean_kl_nats": mean, "kl_why_not": found.why_not,
        }

    def _saved(self, edits: list[Edit]) -> dict[str, object]:
        record = self.knobs.record(edits)
        saved = {"record": record.KIND, "version": record.VERSION, **record.model_dump(mode="json")}
        return dict(pathless(saved)) if self.hide_paths else saved

    def _own_recommender(self) -> Any:
        """The recommender that the run trained, as it lies in its folder: nothing is trained in a server."""
        found = [path.parent for path in sorted(self.folder.glob(f"subject-*/{RECORD}"))]
        for folder in found:
            subject = load_recommender(folder, pick_device(self.config.device or "cpu"), self.run.stages.recipe.subject.recommender.unknown_items)
            if subject.fingerprint == self._record.fingerprint:
                return subject
        raise RunError(asked=f"open the recommender of {self.folder.name}", why="it is not in the run's folder, or another one is there",
                       instead="run the recipe again with the same --out")

    @cached_property
    def _record(self) -> Any:
        """The subject, as the base SAE's record names it."""
        sae = self.run.sae(self.run.sources[0])
        if sae.record is None:
            raise RunError(asked=f"try the features of {self.folder.name}", why="its SAE has no record", instead="train it again")
        return sae.record.subject

    @cached_property
    def _beginning(self) -> LiveInput | None:
        try:
            return self.examples.beginning()
        except SparselightError:
            return None
