"""The explorer's pages of one run frozen into a file that opens from disk: overview, feature list, pages of the best features.

    freeze(Path("runs/demo"), Path("report.html"))

Owns what is taken along and what is cut to keep the size: contexts first, then pages, last the list; the page says what is missing. It holds one
script, ours, whose hash stands in the page's content security policy, and a block of data; nothing is loaded from anywhere. Refuses: runs without
cards, features that are not there, sizes in which nothing fits.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from markupsafe import Markup

from sparselight import __version__
from sparselight.errors import ConfigError
from sparselight.files import write_bytes
from sparselight.serve.data.explorer import ExplorerData
from sparselight.serve.data.served import Runs
from sparselight.serve.figure_ids import owned
from sparselight.serve.models import FeatureCard, FeatureRow, Figure
from sparselight.serve.notes import notes_of
from sparselight.serve.settings import ServeSettings
from sparselight.serve.templating import environment

STATIC = Path(__file__).parent / "static"
STYLES = ("base.css", "figures.css", "pages.css", "frozen.css")
N_FEATURES = 200
MAX_BYTES = 10_000_000
LIST_ROWS = 5000
PAGE_ROWS = 500  # that the data gives at once
CONTEXTS = (10, 6, 4, 2, 1)  # of each kind, fewer where the page would be too large
SILENT = ("random", "near_miss", "neighbour")
PICTURE_BYTES = 40_000  # larger pictures are made smaller
PICTURE_SIZE = 256
PICTURES_FRAC = 0.4  # of the file's size
COLUMNS = ("source", "latent", "grade", "text", "label", "f1", "control_f1_high", "fire_rate", "domain_ratio", "supported", "page")
IMAGE = re.compile(r'<image href="/api/runs/[^"/]+/media/([^"/]+)" width="(\d+)" height="(\d+)"( preserveAspectRatio="none")?/>')


class FrozenResult(NamedTuple):
    """What was written."""

    path: Path
    n_bytes: int
    n_features: int
    n_listed: int
    cut: list[str]
    """What is not there, in sentences."""


class Picture(NamedTuple):
    """A picture that the page holds."""

    id: str
    data: str
    is_stretched: bool
    """Whether it fills the square that it is drawn in, for a grid of patches to lie on it; otherwise it keeps its shape."""


@dataclass(frozen=True, slots=True)
class FrozenCard:
    """A feature with a page."""

    anchor: str
    card: FeatureCard
    contexts_html: Markup


def freeze(run: str | Path, out: str | Path, n_features: int = N_FEATURES, features: Sequence[str] = (), max_bytes: int = MAX_BYTES) -> FrozenResult:
    """Write the explorer's pages of a run as one file that opens from disk.

    Args:
        n_features: pages, besides those of `features`: half of them features of the domain, the rest by grade.
        features: which features have pages in any case, such as `base/12`.
        max_bytes: largest size of the file.

    Raises:
        RunError: when it is no run folder, or has no cards.
        ConfigError: for a feature that is not there, or a size in which nothing fits.
        StoreError: when the file cannot be written.
    """
    page, n_pages, n_listed, cut = render_frozen(Path(run), n_features, features, max_bytes)
    write_bytes(Path(out), page)
    return FrozenResult(Path(out), len(page), n_pages, n_listed, cut)


def render_frozen(run: Path, n_features: int = N_FEATURES, features: Sequence[str] = (), max_bytes: int = MAX_BYTES) -> tuple[bytes, int, int, list[str]]:
    """The page, how many features have a page in it, how many are listed, and what was cut."""
    runs = Runs([run], hide_paths=True)
    name, served = next(iter(runs.items()))
    data = ExplorerData(runs, ServeSettings(), lambda own, source, latent: notes_of(own.folder, source, latent))
    wanted = chosen_features(data, name, n_features, features)
    pages = Pages(data, name, served.folder, max_bytes)
    n_pages, n_listed = len(wanted), LIST_ROWS
    while True:
        for n_contexts in CONTEXTS:
            page = pages.render(wanted[:n_pages], n_contexts, n_listed)
            if len(page.content) <= max_bytes:
                return page.content, n_pages, page.n_listed, page.cut
        if n_pages == len(features) and n_listed == 0:
            raise ConfigError(asked=f"freeze the run in {max_bytes:,} bytes", why=f"with {n_pages} features and nothing else it takes {len(page.content):,}",
                              instead="allow more bytes, or name fewer features")
        n_listed = n_listed if n_pages > max(len(features), 20) else n_listed // 4
        n_pages = max(len(features), n_pages // 2)


def chosen_features(data: ExplorerData, run: str, n_features: int, features: Sequence[str]) -> list[tuple[str, int]]:
    """Which features have pages: the named ones, then supported ones of the domain by F1, then all by grade.

    Raises:
        ConfigError: for a name that means nothing here.
    """
    named = []
    for feature in features:
        source, slash, latent = feature.rpartition("/")
        if not slash or not (latent.isascii() and latent.isdigit()):
            raise ConfigError(asked=f"freeze the feature {feature[:80]!r}", why="that is no feature's name", instead="write base/12")
        data.feature(run, source, int(latent))  # refused where there is none
        named.append((source, int(latent)))
    of_domain = _rows(data, run, n_features // 2, supported=True, domain_only=True, sort="f1")
    by_grade = _rows(data, run, n_features + len(features), sort="grade")
    rest = dict.fromkeys((row.source, row.latent) for row in (*of_domain, *by_grade))
    others = [key for key in rest if key not in set(named)]
    return [*dict.fromkeys(named), *others[:n_features]]


def _rows(data: ExplorerData, run: str, n: int, **query: Any) -> list[FeatureRow]:
    found: list[FeatureRow] = []
    while len(found) < n:
        part = data.features(run, limit=min(PAGE_ROWS, n - len(found)), offset=len(found), **query).rows
        found += part
        if not part:
            break
    return found


class Rendered(NamedTuple):
    """A page and what is in it."""

    content: bytes
    n_listed: int
    cut: list[str]


class Pages:
    """Renders the page of one run, with more or less in it."""

    def __init__(self, data: ExplorerData, run: str, folder: Path, max_bytes: int):
        self.data, self.run, self.folder, self.max_bytes = data, run, folder, max_bytes
        self.overview = data.overview(run)
        self.listed = _rows(data, run, LIST_ROWS, sort="grade")
        self._shrunk: dict[str, str | None] = {}

    def render(self, wanted: Sequence[tuple[str, int]], n_contexts: int, n_listed: int) -> Rendered:
        """The page with pages of these features.

        Args:
            n_contexts: of each kind, on each page.
            n_listed: most rows of the list.
        """

        pictures = Pictures(self._picture, int(self.max_bytes * PICTURES_FRAC))
        anchors = {key: f"f-{key[0]}-{key[1]}" for key in wanted}

        def link(source: str, latent: int) -> str:
            return f"#{anchors.get((source, latent), 'features')}"

        made = environment()
        contexts = made.get_template("feature_pieces.html.j2").module.contexts  # type: ignore[attr-defined]
        cards, n_cut = [], 0
        for key in wanted:
            card = self.data.feature(self.run, *key)
            kept = fewer_contexts(card, n_contexts)
            n_cut += sum(len(group.contexts) for group in card.contexts) - sum(len(group.contexts) for group in kept.contexts)
            edits = [edit.model_copy(update={"context": edit.context.model_copy(update={"html": pictures.inline(edit.context.html)})}) for edit in card.edits]
            kept = kept.model_copy(update={"edits": edits, "figures": own_figures(card, anchors[key])})
            cards.append(FrozenCard(anchors[key], kept, Markup(pictures.inline(str(contexts(kept))))))
        rows = self.listed[:n_listed]
        cut = cut_words(self.overview.n_features, len(cards), len(rows), n_cut, n_contexts, pictures.n_left_out)
        overview = made.get_template("overview.html.j2")
        own = {"overview": self.overview, "run": self.overview, "list_address": lambda *_, **__: "#features", "feature_address": lambda _, *key: link(*key)}
        block = "".join(overview.blocks["main"](overview.new_context(own)))
        script = (STATIC / "frozen.js").read_text(encoding="utf-8")
        page = made.get_template("frozen.html.j2").render(
            overview=self.overview, overview_html=Markup(block), cards=cards, pictures=pictures.kept, link=link, cut=cut, version=__version__,
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), style=Markup(styles()), script=Markup(script), script_hash=Markup(hash_of(script)),
            data=Markup(as_block({"columns": COLUMNS, "rows": [list_row(row, anchors) for row in rows]})),
        )
        return Rendered(page.encode("utf-8", "replace"), len(rows), cut)

    def _picture(self, name: str) -> str | None:
        if name not in self._shrunk:
            self._shrunk[name] = data_url(self.folder / "media" / name) if Path(name).name == name else None
        return self._shrunk[name]


class Pictures:
    """The pictures of a page, each held once, up to a size."""

    def __init__(self, load: Callable[[str], str | None], most_bytes: int):
        self._load, self._left = load, most_bytes
        self._kept: dict[tuple[str, bool], Picture] = {}
        self._missing: set[tuple[str, bool]] = set()

    @property
    def kept(self) -> list[Picture]:
        return list(self._kept.values())

    @property
    def n_left_out(self) -> int:
        return len(self._missing)

    def inline(self, html: str) -> str:
        """Markup of a renderer with its pictures taken from this page."""
        return IMAGE.sub(self._replace, html)

    def _replace(self, found: re.Match[str]) -> str:
        name, columns, rows, stretched = unquote(found[1]), found[2], found[3], found[4] is not None
        key = (name, stretched)
        if key not in self._kept and key not in self._missing:
            data = self._load(name)
            if data is None or len(data) > self._left:
                self._missing.add(key)
            else:
                self._left -= len(data)
                self._kept[key] = Picture(f"picture-{len(self._kept)}", data, stretched)
        return f'<use href="#{self._kept[key].id}" transform="scale({columns} {rows})"/>' if key in self._kept else ""


def data_url(path: Path) -> str | None:
    """A picture of the run as a data: URL, large ones made smaller; None for what cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    kind = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp"}.get(path.suffix.lower())
    if kind is None:
        return None
    if len(content) > PICTURE_BYTES:
        try:
            from PIL import Image

            with Image.open(BytesIO(content)) as picture:
                picture.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
                out = BytesIO()
                picture.convert("RGB").save(out, "JPEG", quality=75)
                content, kind = out.getvalue(), "jpeg"
        except (ImportError, OSError, ValueError):  # no pillow here, or no picture: it stays as it is if there is room
            pass
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def fewer_contexts(card: FeatureCard, n: int) -> FeatureCard:
    """The card with so many contexts of each kind; where few are kept, none of those on which it is silent."""
    groups = [group.model_copy(update={"contexts": group.contexts[:n]}) for group in card.contexts if n > 2 or group.kind not in SILENT]
    return card.model_copy(update={"contexts": groups})


def own_figures(card: FeatureCard, owner: str) -> dict[str, Figure]:
    """Its figures with ids that no other feature's have."""
    return {name: figure.model_copy(update={"svg": owned(figure.svg, owner)}) for name, figure in card.figures.items()}


def list_row(row: FeatureRow, anchors: dict[tuple[str, int], str]) -> list[Any]:
    """A feature as the list's script reads it, in the order of COLUMNS."""
    ratio = row.domain_ratio if row.domain_ratio is not None and row.domain_ratio < 1e6 else None
    return [row.source, row.latent, row.grade, row.text[:200], row.label[:120], _short(row.f1), _short(row.control_f1_high), _short(row.fire_rate),
            _short(ratio), row.supported, anchors.get((row.source, row.latent), "")]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def as_block(data: Any) -> str:
    """JSON that cannot end the script element it stands in, nor begin markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def hash_of(script: str) -> str:
    """The source of a content security policy that allows this script and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}"


def styles() -> str:
    """The explorer's style sheets in one."""
    return "\n".join((STATIC / name).read_text(encoding="utf-8") for name in STYLES)


def cut_words(n_features: int, n_pages: int, n_listed: int, n_contexts_cut: int, n_contexts: int, n_pictures: int) -> list[str]:
    """What is not on the page, in sentences."""
    words = [f"This file has pages of {n_pages:,} of {n_features:,} features and lists {n_listed:,}."]
    if n_contexts_cut:
        words.append(f"Of each kind of context at most {n_contexts} are shown; {n_contexts_cut:,} are left out.")
    if n_pictures:
        words.append(f"{n_pictures:,} pictures are left out.")
    words.append("The run folder, opened with sparselight serve, has everything, and lets features be tried.")
    return words
