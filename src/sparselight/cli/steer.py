"""`sparselight steer`: a feature turned up, down or off, before and after side by side; a full study; a search for features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sparselight.intervene.study_setting import SteerConfig
    from sparselight.pipeline.sequence_steering import SequencePlan, SequenceStudyResult
    from sparselight.pipeline.steering import FindResult, SteerPlan, SteerResult, StudyResult
    from sparselight.records import SteeredText

RUN = typer.Argument(help="Run folder, finished at least until explain.")
FEATURE = typer.Option("--feature", "-f", metavar="N", help="Latent that is turned; --find lists some.")
SOURCE = typer.Option("--source", help="SAE that it belongs to: base or residual.")
CLAMP = typer.Option("--clamp", metavar="DOSE", help="Set the latent to an activation (12.5), or to a multiple of its own 99 % quantile (2x).")
ADD = typer.Option("--add", metavar="DOSE", help="Add to the latent: 12.5, 2x, -1x.")
SCALE = typer.Option("--scale", metavar="FACTOR", help="Multiply the latent.")
ABLATE = typer.Option("--ablate", help="Set the latent to 0.")
ON = typer.Option("--on", help="Which tokens: all, generated, prompt or last.")
PROMPT = typer.Option("--prompt", "-p", metavar="TEXT", help="Text that is continued; of proteins a sequence with <mask> in it, or a number of masks. May be "
                      "repeated.")
N_TOKENS = typer.Option("--n-tokens", help="Longest continuation, tokens.")
SEEDS = typer.Option("--seeds", help="Texts a prompt; more than one needs a temperature.")
TEMPERATURE = typer.Option("--temperature", "-t", help="0 takes the likeliest token. Default: 0 for one text a prompt, 0.7 for several and for --study.")
SEED = typer.Option("--seed", help="Of everything random.")
STUDY = typer.Option("--study", help="The full study: dose-response, side effects, baselines, one page. Without --prompt, beginnings of held-out text. "
                     "Of a run on proteins: sequences written with and without the feature, judged and counted beside controls.")
GOAL = typer.Option("--goal", metavar="GOAL", help="What a study measures: 'tokens: a, b', 'words: a, b', 'regex: ...', 'label: kind=value', "
                    "'annotation: kind=value'. Default: the tokens that follow where the feature fires. Of images: 'finding: NAME'. "
                    "Of proteins: 'pattern: NAME or PROSITE', "
                    "'label: kind=value'; default: the label on the feature's card.")
FIND = typer.Option("--find", metavar="TEXT|GOAL", help="List candidate features: words search explanations, a goal searches by what latents do.")
OUT = typer.Option("--out", "-o", metavar="FOLDER", help="Where a study goes. Default: steering/SOURCE-N-OPERATION in the run folder.")
SET = typer.Option("--set", metavar="A=B", help="Override a setting of the study: --set n_random=5, --set 'strengths=[0.5,1,2]'; may be repeated.")
DRY_RUN = typer.Option("--dry-run", help="Say what would be done: texts, tokens.")


def steer(
    run: Annotated[Path, RUN],
    feature: Annotated[int | None, FEATURE] = None,
    source: Annotated[str, SOURCE] = "base",
    clamp: Annotated[str | None, CLAMP] = None,
    add: Annotated[str | None, ADD] = None,
    scale: Annotated[str | None, SCALE] = None,
    ablate: Annotated[bool, ABLATE] = False,
    on: Annotated[str, ON] = "all",
    prompts: Annotated[list[str] | None, PROMPT] = None,
    n_tokens: Annotated[int | None, N_TOKENS] = None,
    n_seeds: Annotated[int | None, SEEDS] = None,
    temperature: Annotated[float | None, TEMPERATURE] = None,
    seed: Annotated[int, SEED] = 0,
    study: Annotated[bool, STUDY] = False,
    goal: Annotated[str, GOAL] = "",
    find: Annotated[str | None, FIND] = None,
    out: Annotated[Path | None, OUT] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    dry_run: Annotated[bool, DRY_RUN] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Turn a feature and see what happens, and what else happens.

    With --prompt, texts before and after side by side. With --study, the whole dose-response beside baselines, as one page. With --find, features to try.
    """
    from sparselight.pipeline.sequence_steering import is_sequence_run
    from sparselight.pipeline.steer_place import Place
    from sparselight.pipeline.steering import find_features, make_plan, steer_texts, study_run

    operation = _operation(clamp, add, scale, ablate)
    if find is not None:
        found = find_features(Place(run), find, seed=seed)
        typer.echo(found.model_dump_json()) if as_json else print_found(found)
        return
    if study and is_sequence_run(run):
        settings = {"n_sequences": n_seeds, "length": n_tokens, "temperature": temperature, "seed": seed}
        _study_sequences(run, source, _needed(feature, run), operation, on, settings, overrides, goal, prompts, out, dry_run, as_json)
        return
    latent, config = _needed(feature, run), _config(operation, {"n_tokens": n_tokens, "n_seeds": n_seeds, "temperature": temperature, "seed": seed}, overrides)
    if on not in ("all", "generated", "prompt", "last"):
        _refuse(f"steer {on!r} tokens", "there is no such choice", "use --on all, generated, prompt or last")
    if study:
        _check_study(operation, on)
    elif operation is None:
        _refuse(f"steer feature {latent}", "it is not said how", "give one of --clamp 2x, --add 2x, --scale 3, --ablate, or --study")
    if dry_run:
        plan = make_plan(Place(run), "study" if study else "texts", source, latent, config, len(prompts or []), out)
        typer.echo(plan.model_dump_json()) if as_json else print_plan(plan)
    elif study:
        from sparselight.cli.harvest import progress_bar

        with progress_bar("steer", unit="methods") as progress:
            result = study_run(Place(run), source, latent, config, goal, prompts or [], out, progress)
        typer.echo(result.model_dump_json()) if as_json else print_study(result)
    else:
        seeds = n_seeds or 1
        hot = temperature if temperature is not None else 0.7 if seeds > 1 else 0.0
        name, amount = operation or ("", "")
        shown = steer_texts(Place(run), source, latent, name, amount, prompts or [], on, n_tokens or 60, seeds, hot, seed)
        typer.echo(shown.model_dump_json()) if as_json else print_texts(shown)


def _study_sequences(run: Path, source: str, latent: int, operation: tuple[str, str] | None, on: str, settings: dict[str, float | None],
                     overrides: list[str] | None, goal: str, prompts: list[str] | None, out: Path | None, dry_run: bool, as_json: bool) -> None:
    """A study on a run of proteins."""
    from sparselight.cli.harvest import progress_bar
    from sparselight.config import apply_overrides
    from sparselight.intervene.sequence_study import SequenceSteerConfig
    from sparselight.pipeline.sequence_steering import make_sequence_plan, study_run_sequences
    from sparselight.pipeline.steer_place import Place

    if prompts:
        _refuse("study sequences with prompts", "every arm writes from the same starts", "give --set start=natural, or --prompt without --study")
    if operation is not None and operation[0] not in ("clamp", "add"):
        _refuse(f"study --{operation[0]} on sequences", "a latent is held up in them", "use --clamp 1x or --add 1x, or --study alone")
    _check_study(operation, on)
    given = {name: value for name, value in settings.items() if value is not None}
    config = SequenceSteerConfig.parse(apply_overrides({"operation": operation[0] if operation else "clamp", **given}, _plain(overrides)), "steer")
    if dry_run:
        plan = make_sequence_plan(Place(run), source, latent, config, out)
        typer.echo(plan.model_dump_json()) if as_json else print_sequence_plan(plan)
        return
    with progress_bar("steer", unit="arms") as progress:
        result = study_run_sequences(Place(run), source, latent, config, goal, out, progress)
    typer.echo(result.model_dump_json()) if as_json else print_sequence_study(result)


def _operation(clamp: str | None, add: str | None, scale: str | None, ablate: bool) -> tuple[str, str] | None:
    given = {name: value for name, value in (("clamp", clamp), ("add", add), ("scale", scale), ("ablate", "0" if ablate else None)) if value is not None}
    if len(given) > 1:
        _refuse(f"apply {' and '.join(f'--{name}' for name in given)} at once", "one edit has one operation", "give one of them")
    return next(iter(given.items()), None)


def _plain(overrides: list[str] | None) -> list[str]:
    """Settings by their own names; messages call them steer.NAME, which is taken as well."""
    return [one.removeprefix("steer.") for one in overrides or []]


def _config(operation: tuple[str, str] | None, given: dict[str, float | None], overrides: list[str] | None) -> "SteerConfig":
    from sparselight.config import apply_overrides
    from sparselight.intervene.study_setting import SteerConfig

    settings = {name: value for name, value in given.items() if value is not None}
    if settings.get("temperature") == 0:
        settings.setdefault("n_seeds", 1)
    return SteerConfig.parse(apply_overrides({"operation": operation[0] if operation else "add", **settings}, _plain(overrides)), "steer")


def _check_study(operation: tuple[str, str] | None, on: str) -> None:
    if on != "all":
        _refuse(f"study an edit of the {on} tokens", "a study edits every counted token, of general text as well", "leave --on out")
    if operation is not None and operation[0] != "ablate" and operation[1] != "1x":
        _refuse(f"study --{operation[0]} {operation[1]}", "a study sweeps strengths of its own",
                f"write --{operation[0]} 1x, and give other strengths with --set 'strengths=[0.5,1,2]'")


def _needed(feature: int | None, run: Path) -> int:
    if feature is None:
        _refuse(f"steer with the run {run}", "no feature is named", "give --feature 123, or search with --find 'certificate'")
    return feature


def _refuse(asked: str, why: str, instead: str) -> NoReturn:
    from sparselight.errors import ConfigError

    raise ConfigError(asked=asked, why=why, instead=instead)


def print_plan(plan: "SteerPlan") -> None:
    """What would be done, in a line or two."""
    print(f"{plan.what} for {plan.feature}: {plan.prompts} prompts, {plan.generated_tokens:,} generated tokens"
          + (f", {plan.passed_tokens:,} tokens through the subject besides, into {plan.out}" if plan.out else "") + "; nothing was done")


def print_texts(result: "SteerResult") -> None:
    """Before and after side by side, or below each other where there is no room; what changes is marked."""
    from rich.console import Console

    console = Console()
    unit = f" x {result.reference:.4g} (its 99 % quantile)" if result.reference is not None else ""
    amount = "" if result.edit["operation"] == "ablate" else f" {result.edit['amount']:g}{unit}"
    console.print(f"{result.feature}{f': {result.title}' if result.title else ''}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{result.edit['operation']}{amount} at {result.edit['site']}, {result.edit['where']['tokens']} tokens", highlight=False, markup=False)
    for text in result.texts:
        _print_pair(text, console)
    _print_next(result.next_command, console)


def _print_pair(text: "SteeredText", console: "Console") -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from sparselight.report.steering_words import changes

    before, after = changes(text.before, text.after)
    plain = not console.is_terminal
    marks = ("[", "]") if plain else ("", "")
    cells = [_styled(before, "" if plain else "dim", ("", "")), _styled(after, "" if plain else "bold yellow", marks)]
    if console.width < 70:
        for head, cell in zip(("without", "with"), cells, strict=True):
            console.print(Text(f"--- {head}, seed {text.seed}: ", style="dim") + Text(text.prompt, style="dim") + cell)
        return
    table = Table(box=box.SIMPLE, padding=(0, 1), expand=True, title=Text(f"{text.prompt!r}, seed {text.seed}", style="dim"), title_justify="left")
    for head in ("without", "with"):
        table.add_column(head, ratio=1, overflow="fold")
    table.add_row(*cells)
    console.print(table)
    if text.before == text.after:
        console.print("the same: the edit changes nothing here", style="dim", highlight=False)


def _styled(pieces: "list[tuple[str, bool]]", style: str, ends: tuple[str, str]) -> "Text":
    from rich.text import Text

    return Text.assemble(*((f"{ends[0]}{text}{ends[1]}" if text.strip() else text, style) if changed else (text, "") for text, changed in pieces))


def print_found(result: "FindResult") -> None:
    """A table a way of searching."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for way, rows in result.found.items():
        if not rows:
            console.print(f"by {way}: nothing found", highlight=False)
            continue
        table = Table("feature", "stands for", "why", box=box.SIMPLE_HEAD, title=f"by {way}", title_justify="left")
        for row in rows:
            table.add_row(f"{row.source}/{row.latent}", escape(row.title or "no explanation"), escape(row.why))
        console.print(table)
    for way, why in result.not_searched.items():
        console.print(f"by {way}: not searched, {why}", style="dim", highlight=False, markup=False)
    _print_next(result.next_command, console)


def print_study(result: "StudyResult") -> None:
    """The verdict in words, and where the page is."""
    from rich.console import Console

    from sparselight.report.steering_words import curve_sentences, headline, verdicts

    console, study = Console(), result.study
    console.print(f"{study.card}{f': {study.title}' if study.title else ''}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(f"goal: {study.goal} ({study.goal_unit})", highlight=False, markup=False, soft_wrap=True)
    for sentence in [headline(study), *curve_sentences(study), *(f"{kind}: {words}" for kind, words in verdicts(study)), *study.notes]:
        console.print(f"- {sentence}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"page: {Path(result.page).resolve()}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"data: {result.record}", highlight=False, markup=False, soft_wrap=True)
    _print_next(result.next_command, console)


def print_sequence_plan(plan: "SequencePlan") -> None:
    """What would be done, in a line."""
    print(f"sequences for {plan.feature}: {plan.n_arms} arms of {plan.n_sequences} sequences, {plan.written_residues:,} residues in {plan.passes:,} passes, "
          f"into {plan.out}; nothing was done")


def print_sequence_study(result: "SequenceStudyResult") -> None:
    """The verdict in words, and where the page is."""
    from rich.console import Console

    from sparselight.report.steering_sequences import headline, judge_sentences, verdicts

    console, study = Console(), result.study
    console.print(f"{study.card}{f': {study.title}' if study.title else ''}", style="bold", highlight=False, markup=False, soft_wrap=True)
    for sentence in [headline(study), *(f"{kind}: {words}" for kind, words in verdicts(study)), *judge_sentences(study), *study.notes]:
        console.print(f"- {sentence}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"page: {Path(result.page).resolve()}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"data: {result.record}", highlight=False, markup=False, soft_wrap=True)
    _print_next(result.next_command, console)


def _print_next(command: str, console: "Console") -> None:
    from sparselight.cli.console import own_name

    console.print(f"next: {command.replace('sparselight', own_name(), 1)}", highlight=False, markup=False, soft_wrap=True)
