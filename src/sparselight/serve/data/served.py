"""A run folder as the explorer reads it: records, catalogue and columns, kept until the file that they came from changes.

Owns the short ids in addresses, and that nothing outside the run folder is ever opened, whatever its records say. A run that is still being made shows
what is finished. Refuses: folders that are no run folders, ids that are not served.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast

from sparselight import places
from sparselight.errors import RunError, SparselightError
from sparselight.interpret import Catalogue
from sparselight.pipeline.explaining import MODALITIES, SOURCES, run_catalogue
from sparselight.records import EvalRecord, RunRecord, StageRecord
from sparselight.serve.settings import not_found
from sparselight.train.log import read_log
from sparselight.vocab import STAGES

T = TypeVar("T")
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
ABSOLUTE = re.compile(r"(/|~|[A-Za-z]:\\)[^\n]*$")
CATALOGUE_BYTES = 256 * 2**20
"""Most that DuckDB may keep of one catalogue in memory."""


def clean(value: Any) -> Any:
    """The same plain data without what UTF-8 cannot carry: lone surrogates, which JSON files and file names may hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {clean(key): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def pathless(value: Any) -> Any:
    """The same plain data with every absolute path cut to its last name, those inside sentences too."""
    if isinstance(value, str):
        return ".../" + re.split(r"[/\\]", value.rstrip("/\\"))[-1] if ABSOLUTE.match(value) else places.without_paths(value)
    if isinstance(value, Mapping):
        return {key: pathless(item) for key, item in value.items()}
    return [pathless(item) for item in value] if isinstance(value, list | tuple) else value


class ServedRun:
    """A run folder, read only.

    Args:
        id: its name in addresses.
        hide_paths: show of a path on this machine its last name only.
    """

    def __init__(self, id: str, folder: Path, hide_paths: bool = False):
        self.id, self.folder, self.hide_paths = id, folder, hide_paths
        self._lock, self._locks, self._kept = threading.Lock(), dict[str, threading.RLock](), dict[str, tuple[Any, Any]]()

    def kept(self, name: str, stamp: Any, make: Callable[[], T]) -> T:
        """What `make` gave the last time, made again when the stamp has changed; who asks meanwhile waits, who asks for something else does not.

        The stamp is taken before anything is read: then what is kept under it is never older, and is of just that state where the stamp still holds
        after all reading.
        """
        found = self._kept.get(name)
        if found is not None and found[0] == stamp:
            return cast("T", found[1])
        with self._lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            found = self._kept.get(name)
            if found is None or found[0] != stamp:
                found = self._kept[name] = (stamp, make())
            return cast("T", found[1])

    @property
    def record(self) -> RunRecord:
        """What the folder says of itself.

        Raises:
            RunError: when it is no run folder or nothing is finished yet.
        """
        return self.kept("record", stamp(self.folder / "run.json"), self._read_record)

    def _read_record(self) -> RunRecord:
        path = self.folder / "run.json"
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace").strip() == "{}":
            raise RunError(asked=f"show the run {self.folder.name}", why="its first stage is not finished", instead="look again in a while")
        record = RunRecord.load(path)
        return RunRecord.model_validate(self._shown(record.model_dump()))

    def _shown(self, content: Any) -> Any:
        return pathless(clean(content)) if self.hide_paths else clean(content)

    def words(self, text: str) -> str:
        """A sentence as it may be shown."""
        return places.without_paths(text) if self.hide_paths else text

    def _read_stage(self, path: Path) -> StageRecord | None:
        try:
            return StageRecord.model_validate(self._shown(StageRecord.load(path).model_dump()))
        except RunError:
            return None

    def path(self, stage: str) -> Path | None:
        """The folder of a finished stage, None where there is none."""
        place = self.record.stages.get(stage, "")
        return self.folder / place if _is_plain(place) and (self.folder / place).is_dir() else None

    def stage(self, name: str) -> StageRecord | None:
        """The record of a finished stage, None where there is none that can be read."""
        folder = self.path(name)
        if folder is None:
            return None
        return self.kept(f"stage {name}", stamp(folder / "record.json"), lambda: self._read_stage(folder / "record.json"))

    def summary(self, stage: str) -> dict[str, Any]:
        """The numbers that a stage left, empty where it is not finished."""
        record = self.stage(stage)
        return record.summary if record else {}

    def setting(self, dotted: str) -> Any:
        """A setting of its recipe, None where it has none."""
        value: Any = self.record.recipe
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @property
    def modality(self) -> str:
        """How its contexts are shown: `text`, `residues`, `items` or `image`."""
        return MODALITIES.get(str(self.setting("corpus.kind")), "text")

    @property
    def site(self) -> str:
        return str(self.summary("harvest").get("site") or self.setting("harvest.site") or "")

    def missing(self, asked: str) -> SparselightError:
        """The refusal of something that this run does not hold."""
        return not_found(f"{asked} of the run {self.id}")

    def catalogue(self) -> Catalogue:
        """The cards.

        Raises:
            RunError: when the stage explain is not finished.
        """
        def find() -> Catalogue:  # which brings the file up to date
            return Catalogue(run_catalogue(self.folder).path, CATALOGUE_BYTES, n_threads=1)

        return self.kept("catalogue", stamp(self.folder / "run.json"), find)

    def evaluation(self) -> EvalRecord | None:
        """The measurements, None where there are none."""
        folder = self.path("evaluate")
        if folder is None or not (folder / "evaluation.json").is_file():
            return None
        def read() -> EvalRecord:
            found = EvalRecord.load(folder / "evaluation.json")
            return found.model_copy(update={"notes": self._shown(found.notes)})

        return self.kept("evaluation", stamp(folder / "evaluation.json"), read)

    def training_log(self, stage: str) -> list[dict[str, Any]]:
        """The lines of a training, empty where there are none that can be read."""
        folder = self.path(stage)
        if folder is None:
            return []
        try:
            return [clean(line) for line in read_log(folder / "log.jsonl") if isinstance(line, dict)]
        except (OSError, ValueError):
            return []

    def weights(self, source: str) -> Path | None:
        """The folder of the SAE that cards of that source belong to."""
        folder = self.path(SOURCES.get(source, ""))
        return folder / "sae" if folder is not None and (folder / "sae").is_dir() else None

    def media(self, name: str) -> Path:
        """A picture of the corpus, by its exact name.

        Raises:
            NotFoundError: when there is no such picture directly in the folder `media`.
        """
        folder = self.folder / "media"
        path = folder / name
        if not _is_plain(name) or path.suffix.lower() not in PICTURES or not path.is_file() or path.resolve().parent != folder.resolve():
            raise self.missing(f"show the picture {name[:80]!r}")
        return path

    @property
    def title(self) -> str:
        """The folder's name as people read it, also where nothing of the run can be read."""
        return str(clean(self.folder.name))

    @property
    def subject(self) -> str:
        """The model under study as the recipe names it; of an absolute path its end, which says enough."""
        source = PurePath(str(self.setting("subject.source") or ""))
        return "/".join(source.parts[-2:]) if source.is_absolute() else str(self.setting("subject.source") or "")

    def stamp(self) -> Any:
        """What changes when a stage is finished or the catalogue is replaced."""
        return stamp(self.folder / "run.json"), self.catalogue_stamp()

    def catalogue_stamp(self) -> Any:
        """What changes when the catalogue is replaced."""
        return stamp(self.folder / "catalogue.duckdb")

    def studies_stamp(self) -> Any:
        """What changes when a steering study is added."""
        return stamp(self.folder / "steering")

    def finished(self) -> list[str]:
        """Names of finished stages, in their order."""
        return [stage for stage in STAGES if stage in self.record.stages]


class Runs(Mapping[str, ServedRun]):
    """The runs that are served, by id.

    Raises:
        RunError: for a folder that is no run folder, or is given twice.
    """

    def __init__(self, folders: Sequence[str | Path], hide_paths: bool = False):
        self._runs: dict[str, ServedRun] = {}
        if not folders:
            raise RunError(asked="serve nothing", why="no run folder is named", instead="give one or more run folders")
        seen: set[Path] = set()
        for folder in map(Path, folders):
            if not (folder / "run.json").is_file():
                why = "there is no run.json in it" if folder.is_dir() else "there is no such folder"
                raise RunError(asked=f"serve {folder}", why=why, instead="give the folder of a run, such as runs/demo")
            if folder.resolve() in seen:
                raise RunError(asked=f"serve {folder} twice", why="each run is served once", instead="name each folder once")
            seen.add(folder.resolve())
            id = self._free_id(slug(folder.resolve().name))
            self._runs[id] = ServedRun(id, folder.resolve(), hide_paths)

    def _free_id(self, name: str) -> str:
        taken, number, id = set(self._runs), 2, name
        while id in taken:
            id, number = f"{name}-{number}", number + 1
        return id

    def __getitem__(self, id: str) -> ServedRun:
        if id not in self._runs:
            raise not_found(f"show the run {id[:80]!r}")
        return self._runs[id]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def slug(name: str) -> str:
    """A folder's name with every character that has a meaning in an address replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "run"


def problem_of(err: SparselightError, run: ServedRun) -> str:
    """An error in one sentence, without the place of the run on this machine."""
    return without_place(f"{err.why}: {err.instead}", run)


def without_place(text: str, run: ServedRun) -> str:
    return text.replace(str(run.folder), run.folder.name)


def stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _is_plain(name: str) -> bool:
    """Whether a name is that of something directly in a folder."""
    return name not in ("", ".", "..") and Path(name).name == name and "\\" not in name and "\0" not in name


def read_json(path: Path) -> Any:
    """Plain data of a file, None where it is missing or damaged."""
    try:
        return clean(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
