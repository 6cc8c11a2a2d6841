"""The layout `openi`: chest X-rays of Indiana University, as the XML reports (a folder or the packed archive) or as the CSV pair that goes round.

Every report is of another patient. Open-i's index terms become labels `problem.TERM`. Words that were taken out of the reports stand as XXXX and stay so.
"""

import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.image_text.study import ImageIndex, Picture, Study, problem_label, table_rows, view_name
from sparselight.corpus.sources import BadRows, Source, readable
from sparselight.errors import CorpusError

REPORTS, PROJECTIONS = ("indiana_reports.csv", "indiana_reports.csv.gz"), ("indiana_projections.csv", "indiana_projections.csv.gz")
ARCHIVES = (".tgz", ".tar.gz", ".tar")
SECTIONS = ("indication", "technique", "comparison", "findings", "impression")


def openi_sources(root: Path, _config: CorpusConfig) -> list[Source]:
    """The CSV pair where it is there, else the archive, else none: XML files are listed with their studies."""
    if root.is_file():
        return [Source(root, root.name)]
    tables = [_first(root, names) for names in (REPORTS, PROJECTIONS)]
    found = [path for path in tables if path] if tables[0] else sorted(path for path in root.iterdir() if path.name.endswith(ARCHIVES))[:1]
    return [Source(path, path.name) for path in found]


def openi_studies(root: Path, config: CorpusConfig, bad: BadRows, _notes: Counter[str]) -> Iterator[Study]:
    """Studies of the CSV pair, or of XML reports."""
    index = ImageIndex(Path(config.image_text.images).expanduser() if config.image_text.images else root if root.is_dir() else root.parent)
    sources = openi_sources(root, config)
    if sources and sources[0].name in REPORTS:
        yield from _csv_studies(sources, index, bad)
        return
    for where, path, content in _xml_files(root, sources):
        try:
            yield _xml_study(where, content, index, path)
        except ElementTree.ParseError as err:
            bad.add(where, f"it is not valid XML ({err})")


def _csv_studies(sources: list[Source], index: ImageIndex, bad: BadRows) -> Iterator[Study]:
    pictures: dict[str, list[Picture]] = {}
    for row in table_rows(sources[1], ("uid", "filename", "projection")) if len(sources) > 1 else ():
        if row.fault:
            bad.add(row.where, row.fault)
        else:
            pictures.setdefault(row.fields["uid"], []).append(Picture(index.find(row.fields["filename"]), view_name(row.fields["projection"])))
    for row in table_rows(sources[0], ("uid", "Problems", *SECTIONS[2:])):
        if row.fault:
            bad.add(row.where, row.fault)
            continue
        sections = {name: text for name in SECTIONS if (text := row.fields.get(name, "").strip())}
        labels = {problem_label(term): "present" for term in row.fields["Problems"].split(";") if term.strip()}
        uid = row.fields["uid"]
        frontal_first = sorted(pictures.get(uid, []), key=lambda picture: picture.name != "frontal")
        yield Study(row.where, uid, uid, tuple(frontal_first), sections, labels)


def _xml_files(root: Path, sources: list[Source]) -> Iterator[tuple[str, Path | None, bytes]]:
    """Every XML report: its name, its path where it is a file of its own, its bytes."""
    if not sources:
        for path in sorted(root.rglob("*.xml")):
            with readable(path):
                yield path.relative_to(root).as_posix(), path, path.read_bytes()
        return
    try:
        with tarfile.open(sources[0].path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() and member.name.endswith(".xml") else None
                if handle:
                    yield f"{sources[0].name}:{member.name}", None, handle.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as err:
        raise CorpusError(asked=f"read the archive {sources[0].path}", why=f"it is damaged ({err})", instead="fetch it again") from None


def _xml_study(where: str, content: bytes, index: ImageIndex, path: Path | None) -> Study:
    tree = ElementTree.fromstring(content)
    identifier = tree.find("uId")
    uid = identifier.get("id", "") if identifier is not None else ""
    sections: dict[str, str] = {}
    for part in tree.iter("AbstractText"):
        name, text = part.get("Label", "").lower(), " ".join("".join(part.itertext()).split())
        if name in SECTIONS and text:
            sections[name] = text
    terms = [(term.text or "").partition("/")[0] for term in tree.iterfind("MeSH/major")]
    labels = {problem_label(term): "present" for term in terms if term.strip()}
    pictures = tuple(Picture(index.find(f"{image.get('id', '')}.png")) for image in tree.iter("parentImage"))
    return Study(where, uid, uid, pictures, sections, labels, fault="" if uid else "it has no uId", files=(path,) if path else ())


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)
