"""What `sparselight explain` reports: the plan of a call with its cost, and its result."""

from pydantic import Field

from sparselight.interpret.llm.asking import Tally
from sparselight.interpret.llm.budget import Budget, Estimate, Usage
from sparselight.records import Explanation, Part


class CostEstimate(Part):
    """What questions would cost."""

    n_calls: int
    n_cached: int
    """Questions whose answers are on disk."""
    tokens_in: int
    """Tokens read, by estimate."""
    tokens_out: int
    """Tokens written, by estimate."""
    most_tokens: int
    """A bound on both together."""
    cost: float | None
    """In the currency of the prices; null without prices."""
    most_cost: float | None

    @classmethod
    def of(cls, found: Estimate) -> "CostEstimate":
        return cls(n_calls=found.n_calls, n_cached=found.n_cached, tokens_in=found.tokens_in, tokens_out=found.tokens_out, most_tokens=found.most_tokens,
                   cost=found.cost, most_cost=found.most_cost)


class NamingPlan(Part):
    """What a call would do."""

    folder: str
    explainers: list[str]
    scorers: list[str]
    endpoint: str
    model: str
    n_latents: int
    n_without_examples: int
    """Latents that fire in no example that an explainer may see."""
    n_control_latents: int
    estimate: CostEstimate
    caps: dict[str, float]
    """The caps that are set."""


class NamedLatent(Part):
    """One latent with what is said of it."""

    key: str
    grade: str
    explanations: list[Explanation]
    why_not: str = ""
    """Why the language model gave no explanation."""


class Questions(Part):
    """What became of the questions asked."""

    n_asked: int = 0
    n_read: int = 0
    n_refused: int = 0
    n_cut: int = 0
    """Answers that ended at explain.llm.max_answer_tokens."""
    n_garbled: int = 0
    n_repaired: int = 0
    """Of those read: at a second attempt."""
    problems: dict[str, int] = Field(default_factory=dict)
    """Why there was no answer, with how often."""
    n_calls: int = 0
    """Requests sent, attempts included."""
    n_cached: int = 0
    n_retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None

    @classmethod
    def of(cls, tally: Tally, budget: Budget | None) -> "Questions":
        """From what was counted; without a budget nothing was asked of a server."""
        usage = budget.usage if budget else Usage()
        return cls(
            n_asked=tally.n_asked, n_read=tally.n_read, n_refused=tally.n_refused, n_cut=tally.n_cut, n_garbled=tally.n_garbled, n_repaired=tally.n_repaired,
            problems=dict(tally.problems), n_calls=usage.n_calls, n_cached=usage.n_cached, n_retries=usage.n_retries, tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out, cost=budget.spent() if budget else None)


class NamingResult(Part):
    """What a call came to: the one object that `--json` prints, and `llm/naming.json`."""

    folder: str
    latents: list[NamedLatent]
    controls: dict[str, dict[str, dict[str, dict[str, float]]]]
    """Mean of each control by explainer, scorer, control and metric."""
    questions: Questions
    capped: str = ""
    """The setting whose cap ended the work; empty where none did."""
    grades: dict[str, int]
    """Latents by grade, afterwards."""
    next_command: str
