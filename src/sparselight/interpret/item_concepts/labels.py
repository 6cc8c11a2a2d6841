"""Which labels a concept dictionary verifies, and by how many latents: what reports list and tuning is asked for by name.

Owns the groups that kinds of labels are shown in (a genre, an era, a franchise, ...). Refuses: labels that no latent stands for with enough confidence.
"""

from collections.abc import Iterable

from sparselight.errors import ConfigError, nearest
from sparselight.interpret.item_concepts.verify import CONFIDENT
from sparselight.records.item_concepts import ConceptDictionaryRecord, LatentConcept

TITLE = "franchise or word of the title"
GROUPS = {"genre": "genre", "decade": "era", "year": "era", "recency": "era", "series": TITLE, "term": TITLE, "tag": "tag", "popularity": "popularity"}
"""Kind of a label to the name of its group; other kinds, as a catalog's own columns, are groups of their own."""


def verified(concepts: Iterable[LatentConcept], least: float = CONFIDENT) -> dict[str, list[LatentConcept]]:
    """Labels with the latents that stand for them at a confidence of `least` or more: those of most latents first, the most confident latent of each first."""
    found: dict[str, list[LatentConcept]] = {}
    for one in sorted(concepts, key=lambda one: (-one.confidence, one.latent)):
        if one.route == "label" and one.confidence >= least - 1e-9:
            found.setdefault(one.label, []).append(one)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), -pair[1][0].confidence, pair[0])))


def group_of(label: str) -> str:
    """The group of a label `kind=value`."""
    kind = label.partition("=")[0]
    return GROUPS.get(kind, kind)


def one_a_group(labels: Iterable[str], groups: Iterable[str] = ("genre", "era", TITLE)) -> list[str]:
    """The first label of each of some groups, in the order of the groups; those of other groups follow where some are missing."""
    listed = list(labels)
    wanted = list(groups)
    found = [first for group in wanted if (first := next((label for label in listed if group_of(label) == group), None)) is not None]
    others = [label for label in listed if label not in found and group_of(label) not in wanted]
    return [*found, *others][:len(wanted)]


def latents_for(record: ConceptDictionaryRecord, label: str, least: float = CONFIDENT) -> list[LatentConcept]:
    """The latents of a dictionary that stand for a label, the most confident first.

    Raises:
        ConfigError: when there are none.
    """
    found = verified(record.concepts, least)
    if label in found:
        return found[label]
    weaker = [one.confidence for one in record.concepts if one.route == "label" and one.label == label]
    why = f"the most confident of the {len(weaker)} latents that it names best reaches {max(weaker):.2f}" if weaker else "no latent is named best by it"
    lower = "give a lower min_confidence"
    raise ConfigError(asked=f"find the latents that stand for {label!r} with a confidence of {least:g}", why=why,
                      instead=f"{nearest(label, list(found))}, or {lower}" if found else f"train the SAE longer, or {lower}")
