"""Does the header of a DICOM file name a person? A check that stops a mistake, and no proof of de-identification.

Owns: the attributes that are looked at (those of the basic confidentiality profile, DICOM PS3.15 E, that name people, places, numbers and birth dates) and what
passes as a pseudonym. It sees no words in the picture (unless the header says that they are there), no report text, no private attributes and no face.
Messages name attributes, never their values.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson", "ReferringPhysicianName", "RequestingPhysician",
         "PerformingPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "OperatorsName")
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "MedicalRecordLocator", "AdmissionID", "IssuerOfPatientID")
PLACES = ("PatientAddress", "PatientTelephoneNumbers", "InstitutionAddress", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers")
WORDS = re.compile(r"(anon\w*|de-?identified|pseudonym\w*|removed|redacted|unknown|none|null|n/?a|no ?name|name|test|phantom"
                   r"|patient|subject|case|study|id|mr|x+|doe|john|jane)|[\d\W_]+", re.IGNORECASE)
HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-2](\.\d+){4,}", re.IGNORECASE)  # a digest, a UUID, a DICOM UID
REPEATED = re.compile(r"(.)\1*")


def identity_faults(dataset: "Dataset", path: Path) -> list[str]:
    """Attributes that seem to name a person, in words for a message; empty where nothing does.

    A name passes when it holds nothing but words such as `Anonymous`, numbers, a hash or a UID. A number of a patient passes when it is such a word, a hash or
    a UID, one character repeated, a part of the file's path, or the header says that the identity was removed. A birth date passes when it is a 1 January.
    """
    found = [name for name in NAMES if any(not _is_pseudonym(part) for part in _values(dataset, name))]
    if str(dataset.get("PatientIdentityRemoved", "")).upper() != "YES" and not dataset.get("DeidentificationMethod"):
        found += [name for name in NUMBERS if any(not _is_number_alias(part, path) for part in _values(dataset, name))]
    found += [name for name in PLACES if any(not _is_pseudonym(part) for part in _values(dataset, name))]
    if any(len(value) == 8 and not value.endswith("0101") for value in _values(dataset, "PatientBirthDate")):
        found.append("PatientBirthDate")
    faults = [f"its header has a {name} that seems real" for name in found]
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        faults.append("its header says that words are burned into the picture (BurnedInAnnotation)")
    return faults


def _values(dataset: "Dataset", name: str) -> list[str]:
    value = dataset.get(name)
    if value is None or value == "":
        return []
    many = value if not isinstance(value, str) and hasattr(value, "__iter__") and not hasattr(value, "family_name") else [value]
    return [text for item in many if (text := str(item).strip(" ^=\0"))]


def _is_pseudonym(value: str) -> bool:
    return bool(HASH.fullmatch(value) or REPEATED.fullmatch(value)) or all(
        WORDS.fullmatch(word) or HASH.fullmatch(word) or REPEATED.fullmatch(word) for word in re.split(r"[\s^=,]+|(?<=\D)(?=\d)", value) if word
    )


def _is_number_alias(value: str, path: Path) -> bool:
    if HASH.fullmatch(value) or REPEATED.fullmatch(value) or not any(character.isdigit() for character in value):
        return _is_pseudonym(value)
    words = re.match(r"[A-Za-z][A-Za-z_-]{2,}", value)
    return bool(words and WORDS.fullmatch(words[0].strip("_-"))) or (len(value) >= 4 and any(value in part for part in path.parts))
