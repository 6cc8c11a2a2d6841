"""Which index terms of Open-i say that a finding of the labeller is there.

A term is `heading` or `heading/qualifier/...`; a pattern must match it from its start.
"""

import re
from collections.abc import Sequence

TERMS: dict[str, str] = {
    "cardiomegaly": r"cardiomegaly|(cardiac shadow|heart)/(.*/)?enlarged",
    "pleural effusion": r"pleural effusion|hydropneumothorax|hemothorax|hemopneumothorax|costophrenic angle/(.*/)?blunted",
    "pneumothorax": r"(hydro|hemo)?pneumothorax",
    "opacity": r"opacity|infiltrate|airspace disease",
    "consolidation": r"consolidation",
    "pneumonia": r"pneumonia",
    "atelectasis": r"pulmonary atelectasis",
    "edema": r"pulmonary edema|pulmonary congestion|heart failure",
    "nodule or mass": r"nodule|mass(/|$)",
    "fracture": r"fractures, bone",
    "emphysema": r"emphysema|pulmonary emphysema|bullous emphysema|pulmonary disease, chronic obstructive|lung, hyperlucent"
                 r"|lung/(.*/)?(hyperdistention|hyperinflation)|diaphragm/(.*/)?flattened|blister",
    "granuloma": r"calcified granuloma|granuloma|granulomatous disease|histoplasmosis",
    "calcification": r"calcinosis|atherosclerosis|calcified granuloma",
    "scarring": r"cicatrix|pulmonary fibrosis|fibrosis",
    "scoliosis": r"scoliosis",
    "spine degeneration": r"osteophyte|spondylosis|(thoracic vertebrae|spine|lumbar vertebrae)/(.*/)?degenerative|hyperostosis",
    "hiatal hernia": r"hernia, hiatal",
    "line or tube": r"catheters, indwelling|tube, inserted",
    "pacemaker": r"implanted medical device|cardiac pacemaker|pacemaker",
    "surgical material": r"surgical instruments|sutures",
}


def matches(finding: str, terms: Sequence[str]) -> bool:
    """Whether any index term of a study says that the finding is there."""
    return any(re.match(TERMS[finding], term) for term in terms)
