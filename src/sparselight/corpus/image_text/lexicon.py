"""The words of the labeller, as tables: findings with their patterns, cues that negate or weaken, words of change.

Owns: FINDINGS (after the families of CheXpert, Irvin et al. 2019, arXiv:1901.07031, and of Open-i's index, Demner-Fushman et al. 2016), cues in the manner
of NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029), CHANGES. Patterns are regular expressions over lower-case text; `~` stands for up to six words.
"""

import re
from dataclasses import dataclass
from typing import Literal

GAP = r"(?:[\s,]+[\w/-]+){0,6}?[\s,]+"
Family = Literal["pathology", "device"]
NORMAL = r"(?:normal|unremarkable|within normal limits?|within limits of normal|not enlarged|non-?enlarged)"
HEART = (r"(?:heart(?: size| contour| shadow)?s?|cardiac(?: and mediastinal| / mediastinal)?(?: silhouette| size| contours?| shadow)s?"
         r"|cardio-?mediastinal(?: silhouette| contours?| size)?s?)")
ENLARGED = r"(?:enlarged|enlargement|prominent|increased)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: what names it, and what says without naming it that it is not there."""

    name: str
    patterns: tuple[str, ...]
    normal: tuple[str, ...] = ()
    family: Family = "pathology"


FINDINGS: tuple[Finding, ...] = (
    Finding("cardiomegaly", (r"cardiomegaly", rf"{HEART}~{ENLARGED}", rf"{ENLARGED}~(?:heart|cardiac|cardio-?mediastinal)\b(?: silhouette| size| contour)?",
                             r"cardiac enlargement", r"enlargement of the (?:heart|cardiac|cardio-?mediastinal)", rf"{HEART}~(?:borderline|large)",
                             r"borderline (?:heart|cardiac)(?: size| silhouette)?"),
            (rf"{HEART}~{NORMAL}", rf"normal~{HEART}", r"heart (?:and|,)~normal")),
    Finding("pleural effusion", (r"pleural effusions?", r"(?<!pericardial )(?<!pleural )effusions?", r"pleural fluid",
                                 r"blunting~(?:costophrenic|cp)\b(?: angles?| sulc\w+)?", r"(?:costophrenic|cp)~blunt\w+", r"(?:hydro|hemo)(?:pneumo)?thorax"),
            (r"(?:costophrenic|cp) (?:angles?|sulc[ui]s?|recess\w*)~(?:clear|sharp|preserved|unremarkable)", r"pleural spaces~(?:clear|unremarkable|normal)")),
    Finding("pneumothorax", (r"(?:hydro|hemo)?pneumothora(?:x|ces)",), (r"pleural spaces~(?:clear|unremarkable|normal)",)),
    Finding("opacity", (r"opacit(?:y|ies)", r"opacifications?", r"infiltrat(?:es?|ions?)", r"air-?space disease", r"air space disease"),
            (r"lungs?~clear\b", r"clear lungs?", r"clear and expanded")),
    Finding("consolidation", (r"consolidat(?:ions?|ive|ed)",), ()),
    Finding("pneumonia", (r"(?:broncho)?pneumonias?", r"infectious process", r"pulmonary infection"), ()),
    Finding("atelectasis", (r"atelecta\w+", r"lobar collapse", r"collapse of the~lobe"), ()),
    Finding("edema", (r"(?:pulmonary |interstitial |alveolar )?(?:o?edema)", r"(?:pulmonary )?vascular congestion",
                      r"(?:pulmonary |pulmonary venous )congestion", r"congestive (?:heart failure|changes?)", r"\bchf\b", r"kerley b", r"heart failure"),
            (r"(?:pulmonary )?vascular(?:ity)?~normal",)),
    Finding("nodule or mass", (r"nodul(?:es?|ar(?:ity)?)", r"mass(?:es)?", r"mass-?like", r"neoplasms?", r"tumors?")),
    Finding("fracture", (r"fractures?", r"fractured")),
    Finding("emphysema", (r"(?<!subcutaneous )(?<!subcutaneous  )emphysema\w*", r"\bcopd\b", r"chronic obstructive", r"hyperinflat\w+", r"hyperexpan\w+",
                          r"hyperaerat\w+", r"hyperdisten\w+", r"over-? ?(?:expanded|inflated|distended)", r"bull(?:a|ae|ous)",
                          r"flatten\w+~(?:hemi)?-?diaphragms?", r"(?:hemi)?-?diaphragms?~flatten\w+"),
            ()),
    Finding("granuloma", (r"granulomas?", r"granulomata", r"granulomatous", r"calcified~(?:nodules?|lymph nodes?)", r"histoplasmosis")),
    Finding("calcification", (r"calcif\w+", r"calcinosis", r"atheroscl\w+", r"atheromatous")),
    Finding("scarring", (r"scar(?:s|ring)?", r"fibro(?:sis|tic)", r"cicatri\w+")),
    Finding("scoliosis", (r"(?:dextro|levo|kypho|roto)?-?scolio(?:sis|tic)", r"s-shaped curvature", r"curvature~spine")),
    Finding("spine degeneration", (r"osteophyt\w+", r"spondylo(?:sis|tic)", r"degenerative~(?:spine|disc|disk|vertebra\w*|endplate|spurring|spinal)",
                                   r"(?:spine|spinal)~degenerat\w+", r"degenerative (?:changes?|disease)", r"spurring", r"\bdish\b", r"disc space narrowing")),
    Finding("hiatal hernia", (r"hiatal hernias?", r"hiatus hernias?")),
    Finding("line or tube", (r"catheters?", r"\bpicc\b", r"port-?a-?cath", r"\bports?\b", r"(?:central|venous|subclavian|jugular|picc) (?:venous )?lines?",
                             r"\b(?:et|ng|og) tubes?",
                             r"(?:endotracheal|nasogastric|orogastric|enteric|feeding|chest|tracheostomy|dobhoff|gastric|gastrostomy) tubes?", r"tracheostomy",
                             r"chest tubes?"),
            family="device"),
    Finding("pacemaker", (r"pacemakers?", r"\baicd\b", r"\bicd\b", r"defibrillators?", r"pacer(?: leads?)?", r"pacing (?:leads?|wires?|device)",
                          r"cardiac leads?", r"(?:pulse )?generator", r"(?:atrial|ventric\w+|biventricular|dual|single)~leads?"), family="device"),
    Finding("surgical material", (r"sternotom\w+", r"surgical (?:clips?|sutures?|staples?)", r"\bclips?\b", r"sutures?", r"\bcabg\b", r"sternal wires?",
                                  r"coronary (?:artery )?bypass", r"(?:valve|valvular) (?:replacement|prosthes[ie]s)", r"prosthetic~valve"),
            family="device"),
)

# Cues: what stands before (or after) a finding in its sentence, up to a word that ends the scope.
NEGATED_BEFORE = (r"no longer", r"no", r"none (?:of|seen)", r"without", r"negative for", r"free of", r"clear of", r"absence of", r"absent", r"neither", r"nor",
                  r"not", r"den(?:y|ies|ied)", r"fail(?:s|ed)? to", r"resolution of", r"resolved", r"clearing of", r"removal of", r"rather than")
NEGATED_AFTER = (r"(?:is|are|was|were) (?:not|no longer) (?:seen|identified|present|visible|visualized|evident|appreciated|demonstrated|detected|noted)",
                 r"not (?:seen|identified|present|visible)", r"(?:has|have|had) (?:completely |since )?(?:resolved|cleared)",
                 r"(?:is|are) (?:completely )?(?:resolved|absent)", r"(?:has|have) been removed", r"(?:is|are) unlikely", r"ruled out", r"(?:is|are) excluded",
                 r"free$")
UNCERTAIN_BEFORE = (r"possib(?:le|ly|ility of)", r"probab(?:le|ly)", r"likely", r"may", r"might", r"could", r"suspect(?:ed)?", r"suspicious (?:for|of)",
                    r"suspicion (?:for|of)", r"suggest\w*", r"concern(?:ing)? (?:for|of)", r"worrisome for", r"questionable", r"question(?:ed)? (?:of|for)?",
                    r"cannot (?:entirely |completely )?(?:exclude|rule out)", r"can ?not (?:exclude|rule out)", r"not (?:exclude|rule out)", r"versus", r"vs",
                    r"borderline", r"equivocal", r"potential(?:ly)?", r"differential", r"perhaps", r"upper limits? of", r"mimic\w*")
UNCERTAIN_AFTER = (r"(?:is|are|remains?) (?:possible|suspected|questioned|questionable)", r"not (?:entirely |completely )?(?:excluded|ruled out)",
                   r"(?:is|are) (?:likely|probable|a possibility|a consideration|a concern)",
                   r"(?:cannot|can not|can't) be (?:entirely |completely )?(?:excluded|ruled out)", r"versus", r"\?")
UNASSERTED_BEFORE = (r"history of", r"hx of", r"evaluat\w+ for", r"evaluate", r"assess(?:ment)? (?:for|of)", r"rule out", r"r/o", r"to exclude", r"if",
                     r"if there is (?:further |clinical |persistent )?concern for", r"further concern for", r"risk of", r"screening for",
                     r"clinical concern for")
UNASSERTED_AFTER = (r"may not be (?:seen|demonstrated|visible|visualized)", r"(?:can|could|may) be (?:missed|occult|obscured)")
# Words that look like a cue and are none: they are passed over.
NO_CUE = (r"no (?:significant |definite |acute |appreciable |interval |substantial )*(?:interval )?(?:change|increase|decrease|improvement|progression)",
          r"not (?:significantly )?changed", r"without (?:significant |interval )*change", r"not only", r"no further",
          r"not (?:well|fully|completely|optimally) (?:seen|evaluated|visualized|assessed)", r"not necessarily", r"to (?:suggest|indicate)", r"may 20\d\d",
          r"no prior", r"no comparison", r"resolved? from")
SCOPE_ENDS = (r"but", r"however", r"although", r"though", r"except(?: for)?", r"aside from", r"apart from", r"other than", r"otherwise", r"besides",
              r"there (?:is|are|has|have)", r"with (?:the )?exception", r"which", r"(?:is|are) (?:seen|noted|present|identified)", r"again (?:seen|noted)",
              r"status post")

# Words of change against an earlier study, by what they say.
CHANGES: dict[str, tuple[str, ...]] = {
    "unchanged": (r"unchanged", r"stable", r"no (?:significant |interval |appreciable |definite )*change", r"without (?:significant |interval )*change",
                  r"similar (?:to|in)", r"persist\w*", r"again (?:seen|noted|demonstrated|identified)", r"remains?", r"constant"),
    "new": (r"new(?:ly)?", r"interval (?:development|appearance|placement)", r"(?:has|have) (?:developed|appeared)"),
    "worse": (r"worse\w*", r"(?:interval )?(?:increase[ds]?|increasing|progress(?:ed|ion|ive|ing)) (?:in|of|since|from|size|compared)", r"interval increase\w*",
              r"more (?:prominent|pronounced|extensive)", r"enlarging"),
    "better": (r"improv\w+", r"interval (?:decrease|clearing|resolution|improvement)\w*", r"(?:has|have) (?:resolved|cleared|decreased)",
               r"less (?:prominent|pronounced|extensive)", r"resolv(?:ed|ing)"),
    "compared": (r"(?:in )?compar(?:ed|ison) (?:with|to)(?: the)?(?: prior| previous)?",
                 r"(?:prior|previous) (?:study|studies|exam\w*|radiographs?|films?|ct|chest)", r"since (?:the )?(?:prior|previous|last)", r"interval"),
}


def compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the patterns, at word boundaries; `~` is a gap of words."""
    def bound(pattern: str) -> str:
        left = r"\b" if pattern[0].isalnum() or pattern[0] == "(" else ""
        right = r"\b" if pattern[-1].isalnum() or pattern[-1] in ")?*+" else ""
        return f"{left}(?:{pattern}){right}".replace("~", GAP)
    return re.compile("|".join(map(bound, patterns)))
