"""Studies: images with a report. Layouts of public data sets, pixels, sections, finding labels, boxes, earlier studies."""

from sparselight.corpus.image_text.config import ImageTextConfig
from sparselight.corpus.image_text.labeller import ReportLabels, finding_names, label_report
from sparselight.corpus.image_text.pixels import image_file, open_image

__all__ = ["ImageTextConfig", "ReportLabels", "finding_names", "image_file", "label_report", "open_image"]
