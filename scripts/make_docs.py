"""Write the pages and tables that come from code and result files: `python scripts/make_docs.py [--check]`.

Whole pages: docs/reference/*.md and docs/formats/records.md. Tables inside other pages stand between `<!-- generated:NAME -->` and
`<!-- end -->`; NAME is a row of BLOCKS. With --check nothing is written and any difference is printed and fails.
"""

import difflib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from docs_live import live_settings_block
from docs_performance import performance_page
from docs_safety import explorer_safety_block
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}
PLAIN_TYPES = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any value"}
BLOCK = re.compile(r"(<!-- generated:([a-z_-]+) -->\n).*?(<!-- end -->)", re.S)


def note(source: str) -> str:
    return f"<!-- Written by `make docs` from {source}: edits here are lost. -->"


# Pages.

def cli_page() -> str:
    """Every verb with its arguments and options."""
    from typer.main import get_command

    from sparselight.cli import app

    group: Any = get_command(app)
    lines = ["# Command line", "", note("src/sparselight/cli"), "", group.help, "",
             "Results go to stdout, progress and logs to stderr. A request that cannot be met ends with exit code 2 and a message of three parts: "
             "what was asked, why not, what to do instead; with `--json` the same parts as one JSON object.", ""]
    for name, command in _verbs(group):
        arguments = " ".join(_placeholder(parameter) for parameter in command.params if not parameter.opts[0].startswith("-"))
        lines += [f"## `sparselight {name}{' ' + arguments if arguments else ''}`", "", inspect.cleandoc(command.help or ""), ""]
        lines += _table(("Option", "Default", "What it does"), [_option_row(parameter) for parameter in command.params])
    return "\n".join(lines)


def _verbs(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Commands by their full name, those of groups (`store info`) included."""
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _placeholder(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).upper()


def _option_row(parameter: Any) -> tuple[str, str, str]:
    is_option = parameter.opts[0].startswith("-")
    if not is_option:
        return f"`{_placeholder(parameter)}`", "required" if parameter.required else "", parameter.help or ""
    value = "" if parameter.is_flag else f" {_placeholder(parameter)}"
    names = ", ".join(f"`{name}{value}`" for name in [*parameter.opts, *parameter.secondary_opts])
    default = "" if parameter.default in (None, False, ()) or callable(parameter.default) else f"`{parameter.default}`"
    return names, "required" if parameter.required else default, parameter.help or ""


def recipe_page() -> str:
    """Every setting of a recipe by dotted name."""
    from sparselight.pipeline.recipe import Recipe
    from sparselight.pipeline.specialise import SpecialiseConfig

    lines = ["# Settings of a recipe", "", note("sparselight.pipeline.recipe.Recipe"), "",
             "A recipe is a TOML file; `sparselight run FILE --set NAME=VALUE` overrides one setting. Names are those of the tables below. "
             "A name that is not here, a value of another type or out of range is refused. Complete examples: [recipes/](../../recipes/).", ""]
    seen: dict[type[BaseModel], str] = {}
    own = ["## Recipes of `sparselight specialise`", "",
           "They have no `[residual]` and no `[intervene]`, a setting `base` that names an SAE in place of `[train]`, and one table of their own "
           "([guide](../guides/specialising.md)).", ""]
    return "\n".join([*lines, *_config_lines(Recipe, "", seen), *own, *_config_lines(SpecialiseConfig, "specialise", seen)])


def _config_lines(cls: type[BaseModel], prefix: str, seen: dict[type[BaseModel], str]) -> Iterator[str]:
    seen[cls] = prefix
    plain = {name: field for name, field in cls.model_fields.items() if _nested(field) is None}
    yield from (f"## `[{prefix}]`" if prefix else "## Top level", "", inspect.cleandoc(cls.__doc__ or ""), "")
    dot = f"{prefix}." if prefix else ""
    rows = [(f"`{dot}{name}`", _type_name(field.annotation), _default(field), _bounds(field), field.description or "") for name, field in plain.items()]
    yield from _table(("Setting", "Type", "Default", "Range", "What it sets"), rows)
    for name, field in cls.model_fields.items():
        nested = _nested(field)
        if nested in seen:
            yield from (f"## `[{dot}{name}]`", "", f"The settings of `[{seen[nested]}]`, by the names `{dot}{name}.*`.", "")
        elif nested is not None:
            yield from _config_lines(nested, f"{dot}{name}", seen)


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    candidates = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`\"{value}\"`" if isinstance(value, str) else f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(item) for item in arguments)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if annotation is type(None) or annotation is None:
        return "null"
    if origin is dict:
        return f"table of {_type_name(arguments[1])} by {_type_name(arguments[0])}"
    if origin in (list, tuple, set, frozenset):
        return f"list of {_type_name(arguments[0])}"
    name = getattr(annotation, "__name__", str(annotation))
    return PLAIN_TYPES.get(name, name)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
    return "" if value is PydanticUndefined else f"`{json.dumps(value, default=str)}`"


def _bounds(field: FieldInfo) -> str:
    return ", ".join(f"{sign} {getattr(item, name):g}" for item in field.metadata for name, sign in BOUNDS.items() if getattr(item, name, None) is not None)


def records_page() -> str:
    """Every record on disk, field by field."""
    from sparselight import records

    classes = [value for value in vars(records).values() if inspect.isclass(value) and issubclass(value, records.Part)]
    parts = [value for value in classes if value not in (records.Part, records.Record, records.CheckedRecord)]
    lines = ["# Records on disk", "", note("src/sparselight/records"), "",
             "A record is one JSON file, written atomically, with two fields besides those below: `record` (its kind) and `version`. "
             "A reader refuses a newer version, another kind and a damaged file, each by name.", ""]
    for title, is_record in (("Records", True), ("Parts of records", False)):
        lines += [f"## {title}", ""]
        for cls in (part for part in parts if issubclass(part, records.Record) is is_record):
            kind = f" (`{cls.KIND}`, version {cls.VERSION})" if is_record else ""
            rows = [(f"`{name}`", _type_name(field.annotation), _default(field), field.description or "") for name, field in cls.model_fields.items()]
            lines += [f"### {cls.__name__}{kind}", "", inspect.cleandoc(cls.__doc__ or ""), "", *_table(("Field", "Type", "Default", "Meaning"), rows)]
    return "\n".join(lines)


def metrics_page() -> str:
    """Every measured quantity with its formula, by family."""
    from sparselight.evaluate import FAMILIES
    from sparselight.vocab import METRICS_BY_FAMILY

    lines = ["# Metrics", "", note("sparselight.vocab.METRICS_BY_FAMILY and sparselight.evaluate.FAMILIES"), "",
             "Values that are sums over tokens are reported with their 95 % interval (groups of examples are resampled) and their number of groups; values of "
             "weights alone with the number of latents. All stand beside the same metric of controls. How to measure them: "
             "[evaluating SAEs](../guides/evaluation.md).", ""]
    for name, metrics in METRICS_BY_FAMILY.items():
        family = FAMILIES[name]
        page = f"evaluation/{name}.md"
        more = f" What it shows and what not: [{name}](../{page})." if (ROOT / "docs" / page).is_file() else ""
        suites = f"In the suites {' and '.join(f'`{suite}`' for suite in family.suites)}." if family.suites else "In no suite: run it by name."
        needs = f" Needs {', '.join(NEEDS[need] for need in family.needs)}." if family.needs else ""
        rows = [(f"`{metric.name}`", metric.title, metric.formula, metric.better, metric.range, metric.source) for metric in metrics]
        lines += [f"## {family.title} (`{name}`)", "", f"{suites}{needs} Settings: `evaluate.{name}.*` ([recipe](recipe.md)).{more}", "",
                  *_table(("Name", "What it is", "Formula", "Better", "Range", "Source"), rows)]
    return "\n".join(lines)


NEEDS = {"subject": "the subject", "examples": "held-out tokens", "annotations": "annotations", "several": "two SAEs or more"}


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/cli.md": cli_page, "docs/reference/recipe.md": recipe_page, "docs/reference/metrics.md": metrics_page,
    "docs/formats/records.md": records_page,
    "docs/performance.md": lambda: performance_page(note("benchmarks/results")),
}


# Tables inside other pages.

def works_block() -> str:
    """Stage by modality: what works today."""
    from sparselight.vocab import MODALITIES, STAGES, WORKS

    rows = [(stage, *(WORKS.get(stage, {}).get(modality, "-") for modality in MODALITIES)) for stage in STAGES]
    return "\n".join(_table(("Stage", *MODALITIES), rows)).rstrip()


def import_time_block() -> str:
    """The import benchmark in one line."""
    result = json.loads((ROOT / "benchmarks" / "results" / "import_time.json").read_text())
    seconds, ratios = result["median_s"], result["median_ratio_to_torch"]
    stages = f", the stages that they import when called {ratios['every_stage']:.2f} x" if "every_stage" in ratios else ""
    return (f"`import sparselight` takes {seconds['sparselight']:.3f} s, `import torch` {seconds['torch']:.2f} s; all public functions together "
            f"{ratios['sparselight_api']:.2f} x `import torch`{stages} "
            f"(median of {result['n_rounds']} rounds; {result['machine']}; Python {result['python']}).")


def sites_block() -> str:
    from sparselight.vocab import SITES

    return "\n".join(_table(("Site", "What it addresses"), [(f"`{name}`", meaning) for name, meaning in SITES.items()])).rstrip()


def edits_block() -> str:
    from sparselight.vocab import EDIT_OPERATIONS

    return "\n".join(_table(("Operation", "What it does"), [(f"`{name}`", meaning) for name, meaning in EDIT_OPERATIONS.items()])).rstrip()


def terms_block() -> str:
    """Terms of the objective: the first line of each function's docstring is its formula."""
    from sparselight.train.objectives import TERMS

    rows = [(f"`{name}`", _first_line(term.value), _source_link(term.value)) for name, term in TERMS.items()]
    return "\n".join(_table(("Term", "Value", "File"), rows)).rstrip()


def architectures_block() -> str:
    """Architectures: the first line of each file's docstring says what it does."""
    from sparselight.sae import ARCHITECTURES

    rows = [(f"`{name}`", _first_line(inspect.getmodule(row.make)), row.source, ", ".join(f"`{setting}`" for setting in sorted(row.settings)) or "-")
            for name, row in ARCHITECTURES.items()]
    return "\n".join(_table(("Architecture", "What it is", "Source", "Settings of its own"), rows)).rstrip()


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").splitlines()[0]


def _source_link(function: Callable[..., Any]) -> str:
    path = Path(inspect.getfile(function)).relative_to(ROOT)
    return f"[{path.name}](../../{path.as_posix()})"


def demo_subject_block() -> str:
    """Bits per byte of the demo subject beside the compressors."""
    result = json.loads((ROOT / "studies" / "demo_subject" / "results.json").read_text())
    suffix = ", bits per byte"
    coders = [name.removesuffix(suffix) for name in result["held_out"] if name.endswith(suffix)]
    rows = [(coder, *(f"{result[part][coder + suffix]:.3f}" for part in ("held_out", "held_out_tests"))) for coder in coders]
    heads = [f"{title}: {result[part]['n_files']} files, {result[part]['n_bytes']:,} bytes" for title, part in
             (("held-out packages", "held_out"), ("their tests", "held_out_tests"))]
    return "\n".join(_table(("Bits per byte", *heads), rows)).rstrip()


def demo_results() -> dict[str, Any]:
    """The shipped recipe's run, the first in the study's results."""
    return json.loads((ROOT / "studies" / "demo" / "results.json").read_text())[0]


def demo_headline_block() -> str:
    """What the demo found, in words and with its time."""
    result = demo_results()
    slowest = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in sorted(result["wall_s"].items(), key=lambda item: -item[1])[:4])
    return "\n".join([
        *(f"- {line}" for line in result["headline"]),
        f"- {result['n_supported']:,} features have held-out evidence, {result['n_domain_supported']} of them special to the domain.",
        f"- It took {result['total_s']:.0f} s ({slowest}) on {result['machine']}.",
    ])


def demo_table_block() -> str:
    """The measurements of the demo with their intervals."""
    rows = demo_results()["rows"]
    metrics = ("fvu", "l0", "dead_frac", "ce_increase_nats", "ce_recovered_mean", "ce_recovered_zero")
    found = {(row["coder"], row["dataset"], row["metric"]): row for row in rows}

    def cell(coder: str, dataset: str, metric: str) -> str:
        row = found.get((coder, dataset, metric))
        if row is None:
            return "-"
        return f"{row['value']:.3g}" + ("" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]")

    coders = [coder for coder in dict.fromkeys(row["coder"] for row in rows) if coder != "subject"]
    lines = [(coder, dataset, *(cell(coder, dataset, metric) for metric in metrics)) for dataset in ("domain", "general") for coder in coders]
    return "\n".join(_table(("Coder", "Held-out text", *metrics), lines)).rstrip()


def demo_seeds_block() -> str:
    """The paired change of fvu in every collected run."""
    runs = json.loads((ROOT / "studies" / "demo" / "results.json").read_text())

    def change(run: dict[str, Any], coder: str, dataset: str) -> str:
        wanted = (coder, "base", dataset, "fvu_change_frac")
        row = next(row for row in run["differences"] if (row["coder"], row["reference"], row["dataset"], row["metric"]) == wanted)
        return f"{100 * row['value']:+.2f} % [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"

    rows = [(", ".join(f"{name} = {value}" for name, value in run["changed"].items()) or "as shipped", *(change(run, coder, dataset) for coder, dataset in (
        ("base+residual", "domain"), ("base+residual", "general"), ("base+general residual", "domain"))), str(run["n_domain_supported"])) for run in runs]
    return "\n".join(_table(("Run", "domain fvu, residual", "general fvu, residual", "domain fvu, control", "domain features"), rows)).rstrip()


def sae_formats_block() -> str:
    """Formats of SAEs: what is read, what is written, against what that was verified."""
    from sparselight.sae.formats import FORMATS

    rows = [(f"{form.title} (`{form.name}`)", form.layout, ", ".join(form.architectures), ", ".join(form.written) or "-", form.refuses or "-", form.verified)
            for form in FORMATS.values()]
    return "\n".join(_table(("Format", "Files", "Read", "Written", "Refused", "Verified against"), rows)).rstrip()


def sae_settings_block() -> str:
    """What files of a format may leave unsaid."""
    from sparselight.sae.formats import FORMATS
    from sparselight.sae.formats.format import COMMON

    asked = [(name, "every format", setting) for name, setting in COMMON.items()]
    asked += [(name, f"`{form.name}`", setting) for form in FORMATS.values() for name, setting in form.settings.items()]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for name, form_name, setting in asked:
        grouped.setdefault((name, PLAIN_TYPES.get(setting.kind.__name__, setting.kind.__name__), setting.meaning), []).append(form_name)
    rows = [(f"`{name}`", kind, meaning, ", ".join(forms)) for (name, kind, meaning), forms in grouped.items()]
    return "\n".join(_table(("Setting", "Type", "Meaning", "Of"), rows)).rstrip()


def report_labels_block() -> str:
    """Agreement of the finding labels with people's index of Open-i."""
    result = json.loads((ROOT / "studies" / "radiology_labels" / "results.json").read_text())

    def cell(rate: dict[str, float] | None) -> str:
        return f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]" if rate else "-"

    columns = [(counted, rate) for counted in ("present", "present_or_uncertain") for rate in ("precision", "recall")]
    halves = {finding: found["test"] for finding, found in result["findings"].items()}
    rows = [(finding, str(half["n_indexed"]), *(cell(half[counted][rate]) for counted, rate in columns)) for finding, half in halves.items()]
    heads = ("Finding", f"Indexed, of {result['n_reports']['test']:,}", *(f"{rate.capitalize()}, {counted.replace('_', ' ')}" for counted, rate in columns))
    return "\n".join(_table(heads, rows)).rstrip()


BLOCKS: dict[str, Callable[[], str]] = {
    "sae_formats": sae_formats_block, "sae_settings": sae_settings_block,
    "demo_subject": demo_subject_block, "demo_headline": demo_headline_block, "demo_table": demo_table_block, "demo_seeds": demo_seeds_block,
    "works": works_block, "import_time": import_time_block,
    "sites": sites_block, "edits": edits_block, "terms": terms_block, "architectures": architectures_block,
    "report_labels": report_labels_block, "live_settings": live_settings_block, "explorer_safety": explorer_safety_block,
}


def fill_blocks(text: str, path: Path) -> str:
    """The text with every generated block written again."""
    def fill(match: re.Match[str]) -> str:
        if match[2] not in BLOCKS:
            sys.exit(f"{path}: no block is called {match[2]!r}; known: {', '.join(sorted(BLOCKS))}")
        return f"{match[1]}{BLOCKS[match[2]]()}\n{match[3]}"

    filled = BLOCK.sub(fill, text)
    if filled.count("<!-- generated:") != len(BLOCK.findall(filled)):
        sys.exit(f"{path}: a `<!-- generated:NAME -->` has no `<!-- end -->`")
    return filled


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    cells = [[re.sub(r"\s+", " ", str(cell)).replace("|", "\\|").strip() for cell in row] for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in cells), ""]


def pages() -> dict[Path, str]:
    """What every generated page, and every page with a generated block, should hold."""
    result = {ROOT / name: make().rstrip() + "\n" for name, make in PAGES.items()}
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "studies").rglob("*.md"))]:
        text = result.get(path) or path.read_text(encoding="utf-8")
        if "<!-- generated:" in text:
            result[path] = fill_blocks(text, path)
    return result


def main(check: bool) -> int:
    wanted_pages, stale = pages(), 0
    for path, wanted in wanted_pages.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == wanted:
            continue
        stale += 1
        name = path.relative_to(ROOT).as_posix()
        if check:
            sys.stdout.writelines(difflib.unified_diff(found.splitlines(keepends=True), wanted.splitlines(keepends=True), name, f"{name} as the code has it"))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote {name}")
    print(f"generated pages: {len(wanted_pages)}, {stale} {'out of date' if check else 'written'}{': run `make docs`' if check and stale else ''}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
