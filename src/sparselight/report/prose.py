"""The fixed sentences of the page and the facts that fill them: what was done, what is not claimed, where it came from."""

import json
import math
from collections.abc import Mapping
from typing import Any

from sparselight.interpret.evidence import MIN_F1
from sparselight.records import SaeRecord
from sparselight.report.data import ReportData
from sparselight.report.numbers import count, number, seconds
from sparselight.report.svg import shorten
from sparselight.report.words import words_of

DOMAIN_WORDS = 4
HASH_CHARS = 16


def what_was_done(data: ReportData) -> str:
    """One sentence: which model, which site, which dictionaries, which domain."""
    base, residual = data.sae_records.get("base"), data.sae_records.get("residual")
    if base is None:
        return "This run trained no base SAE."
    words = f"A base SAE of {base.n_latents:,} latents was trained on activations of {base.subject.name} at {base.site} (width {base.d_in:,})"
    if residual is None:
        return words + "; no residual SAE was trained."
    return f"{words}, and a residual SAE of {residual.n_latents:,} latents on what it misses in one rare domain{_domain(data)}."


def _domain(data: ReportData) -> str:
    found = seeds(data)
    if not found:
        return ""
    shown = ", ".join(shorten(str(seed), 60) for seed in found[:DOMAIN_WORDS])
    return f": {words_of(data.run.recipe).texts} like {shown}{f' and {len(found) - DOMAIN_WORDS} more' if len(found) > DOMAIN_WORDS else ''}"


def seeds(data: ReportData) -> list[str]:
    """The seeds of the selection, from its summary or from the recipe."""
    table = data.run.recipe.get("select")
    return list(data.selection.get("seeds") or (table.get("seeds") if isinstance(table, Mapping) else None) or [])


def setting(data: ReportData, dotted: str) -> Any:
    """A setting of the recipe by its dotted name, None where there is none."""
    value: Any = data.run.recipe
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def training_seeds(data: ReportData) -> str:
    """The seed that each SAE was trained with, in words."""
    found = [f"{role} {record.config['seed']}" for role, record in data.sae_records.items() if "seed" in record.config]
    return ", ".join(found) or "not recorded"


def limits(data: ReportData) -> list[str]:
    """What the page does not claim."""
    base = data.sae_records.get("base")
    subject = f"{base.subject.name} at {base.site}" if base else "this model"
    words = words_of(data.run.recipe)
    is_demo = " (the demo's was)", " (the demo's were)"
    was, were = is_demo if setting(data, "subject.source") == "demo" else ("", "")
    return [
        f"Everything here is about {subject} and this corpus. Nothing shows that it carries over to another model, above all a larger one, "
        f"to another site or to other {words.texts}.",
        f"Each SAE was trained once (seeds: {training_seeds(data)}). The intervals say how results vary with the {words.texts} that they are measured on, "
        "not how they vary between trainings.",
        f"Held out means: not used to train the SAEs and not used to find the names. The model itself may have been trained on these {words.texts}{was}, "
        f"and the settings of a recipe may have been chosen by looking at such results{were}.",
        f"Names are statistical: the label (of a fixed list) that best predicts where a latent fires. A supported name (F1 of at least {MIN_F1:g}, "
        "its interval above every shuffled search) says where the latent fires, not why, and not that the model uses it.",
        f"The names were searched for on other {words.groups} than those that score them, but many latents were named at once: a few of the supported ones "
        "may be so by luck.",
        "Promoted and suppressed tokens follow the decoder direction straight to the logits and leave out what later layers do.",
        "An edit shows what one change at one site does to one prediction. It is evidence of an effect there, not an account of the model's computation.",
    ]


def provenance(data: ReportData) -> list[tuple[str, str]]:
    """Where everything came from, as pairs of a name and a value."""
    run, base = data.run, data.sae_records.get("base")
    pairs = [("created", run.created), ("sparselight", run.sparselight_version), ("machine", run.machine)]
    pairs.append(("time, all stages", seconds(sum(run.wall_s.values()))))
    if base is not None:
        policy = base.subject.token_policy
        specials = "count" if policy.count_specials else "do not count"
        pairs += [
            ("model", f"{base.subject.name}, fingerprint {short_hash(base.subject.fingerprint)}"), ("site", f"{base.site}, width {base.d_in:,}"),
            ("token policy", f"rows of up to {policy.context_tokens:,} tokens, {'with' if policy.prepend_bos else 'without'} BOS, specials {specials}"),
        ]
    if data.corpus:
        pairs.append(("corpus", _corpus(data.corpus, words_of(data.run.recipe).groups)))
    pairs += [(f"{role} SAE", _sae(record)) for role, record in data.sae_records.items()]
    return [*pairs, ("training seeds", training_seeds(data))]


def _corpus(corpus: Mapping[str, Any], groups: str) -> str:
    parts = [str(corpus["origin"])] if "origin" in corpus else []
    parts += [f"{count(corpus[name])} {noun}" for name, noun in (("n_groups", groups), ("n_examples", "examples")) if name in corpus]
    return ", ".join(parts + ([f"fingerprint {short_hash(corpus['fingerprint'])}"] if "fingerprint" in corpus else []))


def _sae(record: SaeRecord) -> str:
    aim = "" if record.k is None else f"k {number(record.k)}, "
    words = (f"{record.architecture}, {record.n_latents:,} latents, {aim}l0 {number(record.l0)}, {record.n_dead:,} dead over the last "
             f"{record.dead_after_tokens:,} tokens, {record.n_tokens_seen:,} tokens seen, store {short_hash(record.store_fingerprint)}")
    return words + "".join(f", parent {short_hash(parent)}" for parent in record.parents)


def short_hash(value: object) -> str:
    return str(value)[:HASH_CHARS]


def recipe_toml(recipe: Mapping[str, Any]) -> str:
    """The recipe as TOML that runs it again; settings without a value (None) are left out, as TOML has no such thing."""
    return "\n".join(_toml_table(recipe, "")).strip() + "\n"


def _toml_table(table: Mapping[str, Any], prefix: str) -> list[str]:
    lines = [f"{_toml_key(name)} = {_toml_value(value)}" for name, value in table.items() if value is not None and not isinstance(value, Mapping)]
    for name, value in table.items():
        if isinstance(value, Mapping):
            dotted = f"{prefix}{_toml_key(name)}"
            lines += ["", f"[{dotted}]", *_toml_table(value, f"{dotted}.")]
    return lines


def _toml_key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _toml_value(name)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(name)} = {_toml_value(item)}" for name, item in value.items() if item is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value if item is not None) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value)
