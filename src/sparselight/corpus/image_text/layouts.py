"""The layouts of studies on disk: which there are, which one a folder looks like, and which settings each uses.

Owns: LAYOUTS. Refuses: a root that fits no layout, and a setting that the layout at hand would ignore.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.image_text.chestxray14 import chestxray14_sources, chestxray14_studies
from sparselight.corpus.image_text.config import ImageTextConfig
from sparselight.corpus.image_text.folders import folder_sources, folder_studies
from sparselight.corpus.image_text.mimic_cxr import SHARD, mimic_sources, mimic_studies
from sparselight.corpus.image_text.openi import ARCHIVES, REPORTS, openi_sources, openi_studies
from sparselight.corpus.image_text.pixels import SUFFIXES
from sparselight.corpus.image_text.study import Study
from sparselight.corpus.image_text.table import ENDINGS, table_sources, table_studies
from sparselight.corpus.sources import BadRows, Source
from sparselight.errors import ConfigError, CorpusError


@dataclass(frozen=True, slots=True)
class LayoutReader:
    """How a layout is read: its studies, and the tables that they are read from."""

    studies: Callable[[Path, CorpusConfig, BadRows, "Counter[str]"], Iterator[Study]]
    sources: Callable[[Path, CorpusConfig], list[Source]]


LAYOUTS: dict[str, LayoutReader] = {
    "table": LayoutReader(table_studies, table_sources), "openi": LayoutReader(openi_studies, openi_sources),
    "mimic_cxr": LayoutReader(mimic_studies, mimic_sources), "chestxray14": LayoutReader(chestxray14_studies, chestxray14_sources),
    "folders": LayoutReader(folder_studies, folder_sources),
}
# Settings that only some layouts use, by their dotted name.
USED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("id", "group", "labels"), ("table",)),
    **{f"image_text.{name}": ("table",) for name in ("image", "image_name", "date", "report", "section_columns")},
    "image_text.reports": ("mimic_cxr",), "image_text.patient_pattern": ("folders",), "image_text.label_template": ("chestxray14", "folders"),
    "image_text.no_findings": ("table", "openi", "mimic_cxr"), "image_text.prior_report": ("table", "mimic_cxr"),
    "image_text.prior_image": ("table", "mimic_cxr", "chestxray14"),
    "split": ("table", "mimic_cxr", "chestxray14", "folders"),
}
PUBLISHED_SPLIT = "split"  # the value of corpus.split where the source itself says the sides


def layout_of(config: CorpusConfig) -> str:
    """The layout that the settings name, or that the root looks like.

    Raises:
        CorpusError: when nothing fits.
        ConfigError: when a setting would be ignored.
    """
    settings = config.image_text
    layout = guess_layout(config.path()) if settings.layout == "auto" else settings.layout
    defaults, own_defaults = ImageTextConfig(), CorpusConfig(kind="image_text")
    for name, layouts in USED_BY.items():
        owner, _, field = name.rpartition(".")
        value, default = (getattr(settings, field), getattr(defaults, field)) if owner else (getattr(config, field), getattr(own_defaults, field))
        if value != default and layout not in layouts:
            raise ConfigError(asked=f"set corpus.{name} to {value!r}", why=f"the layout {layout} does not use it",
                              instead=f"leave it out, or set corpus.image_text.layout to {' or '.join(layouts)}")
    if config.split and layout != "table" and config.split != PUBLISHED_SPLIT:
        raise ConfigError(asked=f"set corpus.split to {config.split!r}", why=f"the layout {layout} has the published split only",
                          instead=f'set it to "{PUBLISHED_SPLIT}", or leave it out')
    if (settings.prior_image or settings.prior_report) and layout == "table" and not settings.date:
        raise ConfigError(asked="add earlier studies (corpus.image_text.prior_image, prior_report)", why="nothing says which study of a patient is earlier",
                          instead="name the column of the date in corpus.image_text.date")
    for setting, folder in settings.folders().items():
        if not folder.is_dir():
            raise CorpusError(asked=f"read corpus.{setting} = {str(folder)!r}", why="there is no such folder", instead="give the path of an existing folder")
    return layout


def guess_layout(root: Path) -> str:
    """The layout that names of files imply.

    Raises:
        CorpusError: when they imply none.
    """
    if root.is_file():
        if root.name in REPORTS or root.name.endswith(ARCHIVES):
            return "openi"
        return "chestxray14" if root.name.startswith("Data_Entry") else "table"
    names = sorted(path.name for path in root.iterdir())
    inside = [path.name for path in (root / "files").iterdir()] if (root / "files").is_dir() else []
    if any(SHARD.fullmatch(name) for name in (*names, *inside)):
        return "mimic_cxr"
    if any(name.startswith(("Data_Entry", "BBox_List")) for name in names):
        return "chestxray14"
    if set(REPORTS) & set(names) or any("NLMCXR" in name and name.endswith(ARCHIVES) for name in names) or next(root.rglob("*.xml"), None):
        return "openi"
    tables = [name for name in names if name.endswith(ENDINGS)]
    if len(tables) == 1:
        return "table"
    if not tables and any(path.suffix.lower() in SUFFIXES for path in root.rglob("*")):
        return "folders"
    raise CorpusError(asked=f"read studies from corpus.root = {str(root)!r}",
                      why=f"it fits no layout (tables in it: {', '.join(tables[:6]) or 'none'}; no images)"
                      if not tables else f"it fits no layout ({len(tables)} tables in it: {', '.join(tables[:6])})",
                      instead="set corpus.root to the table, or corpus.image_text.layout to what the folder is")
