"""What a model wrote, read as the JSON that was asked for; a refusal and what cannot be read are named as such and never guessed at.

Owns: thinking that precedes an answer, fences, text around the object, the words by which models refuse. Refuses: values of another type than the schema's.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sparselight.interpret.llm.chat import Answer

THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.S | re.I)
FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.S)
REFUSAL = re.compile(r"^\W*(i'?m (?:really |very )?sorry|i am sorry|sorry,|i (?:can'?t|cannot|can not|won'?t|am unable|am not able)|i'?m (?:unable|not able)|"
                     r"as an ai\b|unfortunately, i (?:can|am))", re.I)
TYPES: dict[str, type] = {"string": str, "integer": int, "array": list, "object": dict}


class Reading(NamedTuple):
    """An answer as data; `data` is None when there is none, and `why` says why."""

    data: dict[str, Any] | None
    why: str = ""
    """refused | cut | garbage | the client's own problem."""


def read(answer: Answer, schema: Mapping[str, Any]) -> Reading:
    """Read one answer."""
    if answer.problem:
        return Reading(None, answer.problem)
    if answer.refusal:
        return Reading(None, "refused")
    text = THINKING.sub("", answer.text).strip()
    for candidate in candidates(text):
        data = _object(candidate, schema)
        if data is not None:
            return Reading(data)
    if answer.is_cut:
        return Reading(None, "cut")
    return Reading(None, "refused" if REFUSAL.match(text.replace("\u2019", "'")) else "garbage")


def candidates(text: str) -> list[str]:
    """Parts of a text that may be the JSON: all of it, what stands in fences, each outermost pair of braces or brackets."""
    parts = _balanced(text, "{}") if "{" in text else _balanced(text, "[]")  # a list inside some other object is no answer
    return [text, *(match.strip() for match in FENCE.findall(text)), *parts]


def _balanced(text: str, pair: str) -> list[str]:
    found, start = [], text.find(pair[0])
    decoder = json.JSONDecoder()
    while start >= 0:
        try:
            _, end = decoder.raw_decode(text, start)
            found.append(text[start:end])
        except ValueError:
            end = start + 1
        start = text.find(pair[0], end)
    return found[-4:][::-1]  # a model that reasons in the open gives its answer last


def _object(text: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The text as an object that satisfies the schema's required fields and types."""
    try:
        data = json.loads(text, strict=False)
    except ValueError:
        return None
    properties: dict[str, Any] = schema.get("properties", {})
    if not isinstance(data, dict) and len(properties) == 1:  # the bare value, where there is but one field
        data = {next(iter(properties)): data}
    if not isinstance(data, dict):
        return None
    return data if all(name in data and fits(data[name], properties[name]) for name in schema.get("required", [])) else None


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value has the type, the items and the bounds that a schema states; of JSON Schema, only what this package uses."""
    kind = schema.get("type", "")
    if not isinstance(value, TYPES.get(kind, object)) or (isinstance(value, bool) and kind == "integer"):
        return False
    if isinstance(value, list):
        few, many = schema.get("minItems", 0), schema.get("maxItems", len(value))
        return few <= len(value) <= many and all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, str):
        return bool(value.strip())
    return kind != "integer" or bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
