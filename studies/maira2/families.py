"""Families of concepts, as the paper names them (devices, pathologies, longitudinal changes, textual features), and ours for picture and sections.

An explanation by words belongs to the family of what the labeller reads in them: `the word effusion` is of a pathology.
"""

from functools import cache

from sparselight.corpus.image_text.labeller import label_report
from sparselight.records import Card

FAMILIES = ("pathologies", "devices", "longitudinal", "picture", "sections", "textual")
DEVICES = ("line or tube", "pacemaker", "surgical material")
FINDING_KINDS = ("finding", "finding negated", "finding uncertain")


def family_of(card: Card) -> str:
    """The family of a latent's explanation; empty where it has none."""
    if card.explanation is None:
        return ""
    kind, _, value = card.explanation.label.partition("=")
    kind = kind.removeprefix("piece in ")
    if kind == "device" or any(device in value or device in kind for device in DEVICES):
        return "devices"
    if kind in FINDING_KINDS or kind.startswith("finding."):
        return "pathologies"
    if kind == "longitudinal":
        return "longitudinal"
    if kind in ("patch", "picture", "picture_class", "box") or value == "<image>":
        return "picture"
    return "sections" if kind in ("section", "report") else family_of_words(value)


@cache
def family_of_words(words: str) -> str:
    """Of an explanation that is no more than words."""
    read = label_report(words.replace("\u2192", " ").strip())
    if read.mentions:
        return "devices" if any(mention.device for mention in read.mentions) else "pathologies"
    return "longitudinal" if read.changes else "textual"


def finding_of(card: Card) -> str:
    """`pleural effusion=present` of a latent that stands for words of a finding; empty for any other."""
    if card.explanation is None:
        return ""
    kind, _, value = card.explanation.label.partition("=")
    state = {"finding": "present", "finding negated": "absent", "finding uncertain": "uncertain", "device": "present"}.get(kind.removeprefix("piece in "))
    name = value.rpartition("\u2192")[2]
    return f"{name}={state}" if state else ""
