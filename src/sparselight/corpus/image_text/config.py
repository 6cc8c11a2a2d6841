"""What a recipe says of studies: how images and reports lie on disk, which parts of a report are read, what of an image is refused.

Owns: ImageTextConfig (`corpus.image_text` in a recipe). Refuses, when read: sections that do not exist, a template without a place for labels.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sparselight.config import Config

Layout = Literal["auto", "table", "openi", "mimic_cxr", "chestxray14", "folders"]
SectionName = Literal["indication", "technique", "comparison", "findings", "impression"]
MAX_PIXELS = 2**26
HARD_MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb


class ImageTextConfig(Config):
    """Layout of the files, sections of the reports, finding labels, prior studies, and what is refused."""

    layout: Layout = "auto"
    """`table` (paths and texts in columns), `openi` (Open-i's XML reports, or the CSV pair indiana_reports and indiana_projections), `mimic_cxr` (folders
    p10/p10000032/s50414267), `chestxray14` (NIH tables of labels and boxes) or `folders` (one folder a class); `auto` goes by the names of the files."""
    images: str = ""
    """Folder that names of images start from; left out, the root, or the folder of a table that is the root."""
    image: str | list[str] = "image"
    """Column of the path of an image, or of a list of paths (table). Several columns name the views; several rows of one id are one study."""
    image_name: str = ""
    """Column of an image's view or role: frontal, lateral, prior (table)."""
    date: str = ""
    """Column of a study's date or running number, which orders the studies of a patient (table)."""
    report: str = ""
    """Column of a whole report, whose headings part it (table); left out, each section has a column."""
    section_columns: dict[SectionName, str] = Field(default_factory=dict)
    """Column of each section (table); left out, the columns that are called like sections."""
    reports: str = ""
    """Folder of the reports where they do not lie beside the images (mimic_cxr)."""
    sections: list[SectionName] = Field(default=["indication", "comparison", "findings", "impression"])
    """Parts of a report that are in the text, in this order; those that a report lacks are passed over."""
    label_template: str = ""
    """Text of an example that has labels of the source and no report, such as `FINDINGS: {labels}.` (chestxray14, folders); left out, its text is empty."""
    label_sections: list[SectionName] = Field(default=["findings", "impression"])
    """Parts of a report in which findings, devices and words of change are looked for; empty, nothing is."""
    no_findings: Literal["keep", "skip", "refuse"] = "keep"
    """A report without any of `label_sections`: kept without finding labels, left out and counted, or refused."""
    missing_images: Literal["refuse", "skip", "keep"] = "refuse"
    """A study that lacks an image, or has none: refused, left out and counted, or kept with the images that are there."""
    views: list[str] = Field(default_factory=list)
    """Names of the images that a study keeps, in this order (`frontal`, `lateral`); left empty, all as they come."""
    max_images: int | None = Field(None, ge=1)
    """Most images of a study, the first ones; earlier studies' come on top."""
    prior_image: bool = False
    """Whether the first image of the patient's previous study is added under the name `prior`."""
    prior_report: bool = False
    """Whether the previous study's findings and impression begin the text, headed `PRIOR REPORT`."""
    boxes: str = ""
    """CSV of boxes in pixels beside the one that the layout knows: columns image, label, x, y, w, h, or NIH's BBox_List."""
    box_name: str = Field("box", min_length=1)
    """Name of the boxes; their value is the label in the file."""
    patient_pattern: str = ""
    """Regular expression whose first group is the patient in a file's name (folders); left out, each image is a group of its own."""
    check_pixels: bool = True
    """Decode each image once while reading, so that a damaged one is found now; false looks at headers only."""
    color: Literal["keep", "refuse"] = "keep"
    """Images in color: counted and kept, or bad rows (a radiograph in color is a screenshot or a heat map)."""
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=HARD_MAX_PIXELS)
    """Width times height above which an image is refused unread."""
    allow_phi: bool = False
    """Read DICOM files whose header seems to name a person, or says that the picture does. The check sees headers only."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.label_template and "{labels}" not in self.label_template:
            raise ValueError(f"label_template = {self.label_template!r} has no {{labels}}")
        for name in ("sections", "label_sections", "views"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: {', '.join(values)}")
        if outside := [name for name in self.label_sections if name not in self.sections and "label_sections" in self.model_fields_set]:
            raise ValueError(f"label_sections names {outside[0]!r}, which sections leaves out")
        return self

    def paths(self) -> dict[str, Path]:
        """Files that are named beside the root, by setting."""
        return {"image_text.boxes": Path(self.boxes).expanduser()} if self.boxes else {}

    def folders(self) -> dict[str, Path]:
        """Folders that are named beside the root, by setting."""
        named = {name: getattr(self, name) for name in ("images", "reports")}
        return {f"image_text.{name}": Path(value).expanduser() for name, value in named.items() if value}
