"""`sparselight explain`: latents of a finished run named by a language model, scored beside controls; gone on with by being run again."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from sparselight.pipeline.naming_result import NamedLatent, NamingPlan, NamingResult
    from sparselight.records import Score

SHOWN = 30
MOST_INTERVALS = 3  # scorers beside each other whose intervals still find room
MAIN = {"detection": "balanced_accuracy", "fuzzing": "balanced_accuracy", "intruder": "accuracy", "level_prediction": "confidence", "embedding": "auroc",
        "keywords": "auroc", "label_rule": "f1"}


class Which(StrEnum):
    """Who explains."""

    llm = "llm"
    statistical = "statistical"
    both = "both"


RUN = typer.Argument(metavar="RUN", help="A run folder whose stage `explain` is finished.")
EXPLAINER = typer.Option("--explainer", help="`llm`: a language model explains, and what it says is scored; `statistical`: explanations that are there "
                         "are scored as they are; `both`.")
SCORERS = typer.Option("--scorers", metavar="NAMES", help="Joined by commas: detection, fuzzing, intruder, level_prediction (these ask the language model), "
                       "embedding (needs explain.scorers.encoder), keywords. Default: detection.")
LATENTS = typer.Option("--latents", metavar="KEYS", help="Which latents, joined by commas: residual/12,base/7.")
TOP = typer.Option("--top", min=1, help="Without --latents: so many, those first that fire more often in the domain than elsewhere.")
GRADE = typer.Option("--grade", metavar="A|B|C|D", help="Only latents that have this grade now.")
SOURCE = typer.Option("--source", metavar="SAE", help="Only latents of this SAE: base, residual.")
ENDPOINT = typer.Option("--endpoint", metavar="URL", help="Server of the OpenAI protocol, such as http://127.0.0.1:8000/v1. A key comes from the environment: "
                        "OPENAI_API_KEY for api.openai.com, SPARSELIGHT_LLM_API_KEY for any other host.")
MODEL = typer.Option("--model", metavar="NAME", help="Name of the model, as the server lists it.")
RECIPE = typer.Option("--recipe", "-r", metavar="NAME|FILE", help="Settings of a protocol: recsae, maira2, contrastive; or a TOML file with the tables "
                      "explain.llm, explain.scorers, explain.examples.")
SET = typer.Option("--set", metavar="A.B=C", help="Override a setting: --set explain.llm.max_cost=2, --set explain.llm.concurrency=32; may be repeated.")


def explain(
    run: Annotated[str, RUN],
    explainer: Annotated[Which, EXPLAINER] = Which.llm,
    scorers: Annotated[str | None, SCORERS] = None,
    latents: Annotated[str, LATENTS] = "",
    top: Annotated[int, TOP] = 50,
    grade: Annotated[str | None, GRADE] = None,
    source: Annotated[str | None, SOURCE] = None,
    endpoint: Annotated[str | None, ENDPOINT] = None,
    model: Annotated[str | None, MODEL] = None,
    recipe: Annotated[str | None, RECIPE] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost: calls, tokens, price.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Name latents with a language model and score the names on examples that it has not seen, beside the same scores of controls.

    Every answer is kept in the run folder: an interrupted call goes on where it was, and a repeated one costs nothing. Caps: explain.llm.max_calls, max_tokens,
    max_cost.
    """
    from sparselight.cli.harvest import progress_bar
    from sparselight.pipeline.naming import NamingRun

    def listed(text: str | None) -> list[str] | None:
        return None if text is None else [name.strip() for name in text.split(",") if name.strip()]

    with NamingRun(run, which=explainer.value, scorers=listed(scorers), latents=listed(latents) or [], top=top, grade=grade, source=source, endpoint=endpoint,
                   model=model, recipe=recipe, overrides=overrides or []) as naming:
        if dry_run:
            plan = naming.plan()
            typer.echo(plan.model_dump_json() if as_json else render_plan(plan))
            return
        if not as_json:
            typer.echo(render_plan(naming.plan()), err=True)
        with progress_bar("explain", unit="") as progress:
            result = naming.run(progress)
    typer.echo(result.model_dump_json()) if as_json else print_result(result)


def render_plan(plan: "NamingPlan") -> str:
    """The plan as text for people."""
    found = plan.estimate
    money = "" if found.cost is None else f"; cost about {found.cost:.4g}, at most {found.most_cost:.4g}"
    without = f"; {plan.n_without_examples} of them fire in too few examples to be explained" if plan.n_without_examples else ""
    return "\n".join([
        f"latents       {plan.n_latents:,} of {plan.folder}{without}",
        f"explained by  {', '.join(plan.explainers)}; scored by {', '.join(plan.scorers)}; controls on {plan.n_control_latents:,} latents",
        f"asked         {f'{plan.model} at {plan.endpoint}' if plan.endpoint else 'no language model'}",
        f"estimate      {found.n_calls:,} calls ({found.n_cached:,} more are answered on disk), {found.tokens_in:,} tokens in and {found.tokens_out:,} out, "
        f"at most {found.most_tokens:,}{money}",
        f"caps          {', '.join(f'explain.llm.{name} = {value:g}' for name, value in plan.caps.items())}",
    ])


def print_result(result: "NamingResult") -> None:
    """Names with their scores, controls, what became of the questions, the next command."""
    from rich.console import Console
    from rich.table import Table

    from sparselight.cli.console import own_name

    console = Console(highlight=False)
    names = list(dict.fromkeys(score.scorer for latent in result.latents for found in latent.explanations for score in found.scores))
    table = Table("latent", "grade", "explanation", *names, title="scores on held-out examples", title_justify="left")
    for latent in result.latents[:SHOWN]:
        for row in rows_of(latent, names, len(names) <= MOST_INTERVALS):
            table.add_row(*row)
    console.print(table)
    if len(result.latents) > SHOWN:
        console.print(f"... and {len(result.latents) - SHOWN:,} more; all: {result.folder}/llm/naming.json")
    for explainer, scorers in result.controls.items():
        parts = [f"{scorer} {control} {values[MAIN[scorer]]:.2f}" for scorer, controls in scorers.items() for control, values in controls.items()
                 if MAIN.get(scorer) in values]
        if parts:
            console.print(f"controls of {explainer}: {', '.join(parts)}", markup=False, soft_wrap=True)
    print_questions(console, result)
    console.print(f"next: {result.next_command.replace('sparselight', own_name(), 1)}", markup=False, soft_wrap=True)


def rows_of(latent: "NamedLatent", scorers: list[str], with_intervals: bool) -> list[list[str]]:
    """A row an explanation of one latent."""
    if not latent.explanations:
        return [[latent.key, latent.grade, escape(f"none: {latent.why_not}"), *[""] * len(scorers)]]
    return [[latent.key, latent.grade, escape(found.text), *(value_of(found.score(name), with_intervals) for name in scorers)] for found in latent.explanations]


def escape(text: str) -> str:
    from rich.markup import escape as escaped

    return escaped(text)


def value_of(score: "Score | None", with_interval: bool) -> str:
    """The main value of a score, or that there is none."""
    if score is None:
        return ""
    value = score.values.get(MAIN.get(score.scorer, ""))
    if value is None:
        return "no score"
    return f"{value.value:.2f} \\[{value.low:.2f}, {value.high:.2f}]" if with_interval and value.low is not None else f"{value.value:.2f}"


def print_questions(console: "Console", result: "NamingResult") -> None:
    """What was asked, what it cost, and what was no answer."""
    found = result.questions
    money = "" if found.cost is None else f", cost {found.cost:.4g}"
    console.print(f"{found.n_asked:,} questions, {found.n_cached:,} answered on disk, {found.n_calls:,} calls ({found.n_retries:,} of them again), "
                  f"{found.tokens_in:,} tokens in and {found.tokens_out:,} out{money}", soft_wrap=True)
    missing = {"refused": found.n_refused, "cut (explain.llm.max_answer_tokens)": found.n_cut, "unreadable": found.n_garbled, **found.problems}
    if parts := [f"{count:,} {why}" for why, count in missing.items() if count]:
        console.print(f"not answered: {', '.join(parts)}", markup=False, soft_wrap=True)
    if result.capped:
        console.print(f"stopped at the cap {result.capped}: raise it and run the same command again; what was answered costs nothing more", soft_wrap=True)
    console.print(f"grades now: {', '.join(f'{count:,} {grade}' for grade, count in result.grades.items())}", soft_wrap=True)
