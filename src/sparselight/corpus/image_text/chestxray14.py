"""The layout `chestxray14`: the NIH table of labels (Data_Entry_2017), boxes (BBox_List_2017) and images; there are no reports.

An image is a study of its own; labels become `problem.LABEL`. Without the table of labels, examples are the images whose names are NIH's.
`corpus.split = "split"` takes the published lists (test_list.txt).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sparselight.corpus.config import CorpusConfig
from sparselight.corpus.image_text.study import ImageIndex, Picture, Study, problem_label, table_rows, view_name
from sparselight.corpus.sources import BadRows, Source

NAME = re.compile(r"(\d{8})_(\d{3})\.png")
NOTHING = "No Finding"
TEST_LIST = "test_list.txt"


def chestxray14_sources(root: Path, _config: CorpusConfig) -> list[Source]:
    """The tables and the list of the test side, those that are there."""
    folder = root if root.is_dir() else root.parent
    beside = sorted(path for path in folder.iterdir() if path.name.startswith(("Data_Entry", "BBox_List")) or path.name == TEST_LIST)
    return [Source(path, path.name) for path in beside]


def chestxray14_studies(root: Path, config: CorpusConfig, bad: BadRows, notes: Counter[str]) -> Iterator[Study]:
    """Images in the order of the table."""
    folder = root if root.is_dir() else root.parent
    index = ImageIndex(Path(config.image_text.images).expanduser() if config.image_text.images else folder)
    sources = chestxray14_sources(root, config)
    tests = next((frozenset(source.text().split()) for source in sources if source.name == TEST_LIST), None)

    def split(image: str) -> str:
        return "" if tests is None else "test" if image in tests else "train"

    entries = next((source for source in sources if source.name.startswith("Data_Entry")), None)
    if entries is None:
        for image, path in index.by_name.items():
            if match := NAME.fullmatch(image):
                notes["images with NIH's names, taken without a table of labels (Data_Entry_2017)"] += 1
                yield Study(image, image, match[1], (Picture(path),), None, {}, (match[2],), split(image))
        return
    for row in table_rows(entries, ("Image Index", "Finding Labels", "Patient ID")):
        if row.fault:
            bad.add(row.where, row.fault)
            continue
        image, terms, view = row.fields["Image Index"], row.fields["Finding Labels"], row.fields.get("View Position", "")
        labels = {problem_label(term): "present" for term in terms.split("|") if term.strip()}
        follow_up = row.fields.get("Follow-up #", "")
        yield Study(row.where, image, row.fields["Patient ID"], (Picture(index.find(image), view_name(view)),), None,
                    {**labels, **({"view": view} if view else {})},
                    (follow_up.zfill(6),) if follow_up else None, split(image))
