"""Evaluation: every coder, both ablations and the subject itself on the same held-out tokens of every dataset.

Owns: one pass over each dataset (a batch is captured once, all coders rebuild it, each then costs one forward pass with the rebuilt
activations spliced in), and the record made of its sums: values with intervals over groups, and paired differences to the base coder.
Each coder sees the same tokens and the same resamples. Refuses: reserved or missing coder names, empty datasets, a mean of another width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import ConfigError, SaeError, nearest
from sparselight.evaluate.behaviour import LossSums
from sparselight.evaluate.config import EvaluateConfig
from sparselight.evaluate.controls import MeanCoder, ZeroCoder
from sparselight.evaluate.held_out import HeldOut
from sparselight.evaluate.reconstruction import CoderSums, Contender, InputSums
from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.protocols import EditFunction, Example, Progress, Subject, no_progress
from sparselight.records import EvalRecord, EvalRow, MetricValue

SUBJECT, ZERO, MEAN = "subject", "zero ablation", "mean ablation"


def evaluate(
    coders: Mapping[str, Contender], subject: Subject, datasets: Mapping[str, Sequence[Example]], site: str, mean: Float[Tensor, " d_in"],
    config: EvaluateConfig = EvaluateConfig(), progress: Progress = no_progress, base: str = "base",  # noqa: B008 (frozen)
    pairs: Sequence[tuple[str, str]] = (),
) -> EvalRecord:
    """Measure coders on held-out examples, beside the unedited subject, zero ablation and mean ablation.

    Args:
        coders: by name; controls are marked as such.
        datasets: held-out examples by name (`general`, `domain`).
        mean: mean training activation at the site.
        pairs: further differences, each (coder, reference).
        base: the coder to which differences are taken: `coder - base` for every metric both have, and fvu_change_frac.

    Raises:
        ConfigError: for a reserved coder name, a base that is not there, or no dataset.
        CorpusError: for a dataset without tokens.
        SaeError: for a coder of another width, or whose reconstruction is not finite.
    """
    _check(coders, subject, datasets, site, mean, [base, *(name for pair in pairs for name in pair)])
    contenders = {**coders, ZERO: Contender(ZeroCoder(), is_control=True), MEAN: Contender(MeanCoder(mean), is_control=True)}
    held_out = [HeldOut.draw(name, examples, config.n_tokens, subject.n_tokens, config.seed) for name, examples in datasets.items()]
    step = _steps(progress, (len(contenders) + 2) * sum(part.n_tokens for part in held_out))
    sheet = _Sheet(base, pairs)
    for part in held_out:
        sums = measure(contenders, subject, part, site, mean, config.batch_tokens, step)
        sheet.add_dataset(part, sums, contenders, coders, Resamples.draw(len(part.groups), config.n_bootstrap, config.seed))
    return EvalRecord(rows=sheet.rows, differences=sheet.differences, n_tokens={part.name: part.n_tokens for part in held_out}, notes=list(sheet.notes()))


@dataclass(slots=True)
class Sums:
    """All that one pass over a dataset leaves: sums over the tokens of each group."""

    inputs: InputSums
    coders: dict[str, CoderSums]
    losses: LossSums


def measure(
    contenders: Mapping[str, Contender], subject: Subject, part: HeldOut, site: str, about: Float[Tensor, " d_in"], batch_tokens: int,
    step: Callable[[int, str], None],
) -> Sums:
    """One pass over a dataset.

    Args:
        about: a point near the mean activation; it changes no result (see InputSums).
        step: called with the tokens of each finished forward pass.
    """
    n_groups = len(part.groups)
    coder_sums = {name: CoderSums.empty(n_groups, contender.n_latents) for name, contender in contenders.items()}
    sums = Sums(InputSums.empty(n_groups, about), coder_sums, LossSums.empty(n_groups))
    for indices in part.batches(batch_tokens):
        batch = subject.prepare([part.examples[index] for index in indices])
        group = torch.tensor([part.group[index] for index in indices])[batch.example.cpu()]
        x = subject.capture(batch, [site])[site].float()
        sums.inputs.add(x, group)
        step(batch.n_tokens, f"{part.name}: activations")
        own = subject.loss(batch)
        sums.losses.add_own(own, group)
        step(batch.n_tokens, f"{part.name}: subject")
        for name, contender in contenders.items():
            asked = f"evaluate the coder {name!r} on the dataset {part.name!r}"
            x_hat, codes = contender.apply(x, asked)
            sums.coders[name].add(x, x_hat, codes, group)
            sums.losses.add_spliced(name, subject.loss(batch, edits={site: _always(x_hat)}), own, group, asked)
            step(batch.n_tokens, f"{part.name}: {name}")
    return sums


@dataclass
class _Sheet:
    """The rows of a record as they are filled in."""

    base: str
    pairs: Sequence[tuple[str, str]] = ()
    rows: list[EvalRow] = field(default_factory=list)
    differences: list[EvalRow] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)
    _missing: dict[tuple[str, str, str], list[str]] = field(default_factory=dict)

    def add_dataset(self, part: HeldOut, sums: Sums, contenders: Mapping[str, Contender], coders: Mapping[str, Contender], resamples: Resamples) -> None:
        """All values of one dataset, and the differences of `coders` to the base coder and of the further pairs."""
        if resamples.note():
            self._notes.append(f"{part.name}: {resamples.note()}")
        unscored = sums.losses.n_unscored
        if unscored:
            self._notes.append(f"{part.name}: {unscored} of {part.n_tokens} tokens have nothing before them and are left out of the cross entropy")
        self._add(self.rows, SUBJECT, True, part.name, sums.losses.own_metrics(resamples), resamples)
        measured = {name: sums.coders[name].metrics(sums.inputs, resamples) | sums.losses.metrics(name, ZERO, MEAN, resamples) for name in contenders}
        dead = {name: sums.coders[name].dead_frac() for name in contenders}
        for name, contender in contenders.items():
            self._add(self.rows, name, contender.is_control, part.name, measured[name], resamples)
            self._add_dead(self.rows, name, contender.is_control, part, dead[name], resamples)
        for name, reference in [*((name, self.base) for name in coders if name != self.base), *self.pairs]:
            own, other = measured[name], measured[reference]
            paired = {metric: own[metric] - other[metric] for metric in own if metric in other}
            paired["fvu_change_frac"] = ratio(own["fvu"], other["fvu"]) - 1
            self._add(self.differences, name, coders[name].is_control, part.name, paired, resamples, reference)
            both = dead[name], dead[reference]
            change = None if both[0] is None or both[1] is None else both[0] - both[1]
            self._add_dead(self.differences, name, coders[name].is_control, part, change, resamples, reference)

    def _add(self, rows: list[EvalRow], coder: str, is_control: bool, dataset: str, metrics: Mapping[str, Resampled], resamples: Resamples,
             reference: str | None = None) -> None:
        for metric, values in metrics.items():
            value, lacks = resamples.summarize(values)
            if value is not None:
                rows.append(EvalRow(coder=coder, is_control=is_control, dataset=dataset, metric=metric, value=value, reference=reference))
            if lacks:
                who = f"{coder} minus {reference}" if reference else coder
                self._missing.setdefault((dataset, metric, lacks), []).append(who)

    def _add_dead(self, rows: list[EvalRow], coder: str, is_control: bool, part: HeldOut, dead_frac: float | None, resamples: Resamples,
                  reference: str | None = None) -> None:
        if dead_frac is not None:
            value = MetricValue(value=dead_frac, n=part.n_tokens, unit="tokens", seeds=[resamples.seed])
            rows.append(EvalRow(coder=coder, is_control=is_control, dataset=part.name, metric="dead_frac", value=value, reference=reference))

    def notes(self) -> Iterator[str]:
        """What a reader must know beside the numbers."""
        yield from self._notes
        for (dataset, metric, lacks), coders in self._missing.items():
            yield f"{dataset}, {metric} of {', '.join(coders)}: {lacks}"


def _always(x_hat: Float[Tensor, "token d_in"]) -> EditFunction:
    """The edit that puts in what a coder has made of the same batch: the same as `coder.reconstruct`, without encoding twice."""
    return lambda _x: x_hat


def _steps(progress: Progress, total: int) -> Callable[[int, str], None]:
    done = 0

    def step(n_tokens: int, note: str) -> None:
        nonlocal done
        done += n_tokens
        progress(done, total, note)

    return step


def _check(
    coders: Mapping[str, Contender], subject: Subject, datasets: Mapping[str, Sequence[Example]], site: str, mean: Tensor, compared: Sequence[str],
) -> None:
    for name in compared:
        if name not in coders:
            instead = nearest(name, coders) if coders else "give a coder of that name"
            raise ConfigError(asked=f"take differences to the coder {name!r}", why="it is not among the coders", instead=instead)
    for name in (SUBJECT, ZERO, MEAN):
        if name in coders:
            raise ConfigError(asked=f"evaluate a coder named {name!r}", why="that name is the evaluation's own", instead="give the coder another name")
    for name, contender in coders.items():
        if getattr(contender.coder, "is_transcoder", False):
            raise SaeError(asked=f"evaluate the coder {name!r} at {site!r}", why="it is a transcoder: it gives back other activations than it reads",
                           instead="evaluate an SAE that was trained without train.target_site")
    if not datasets:
        raise ConfigError(asked="evaluate", why="there is no dataset", instead="give held-out examples by name, for example {'general': examples}")
    d_in = subject.d_site(site)
    if mean.shape != (d_in,):
        raise SaeError(asked=f"evaluate at {site!r} with a mean activation of shape {list(mean.shape)}", why=f"activations there have width {d_in}",
                       instead="give the mean of training activations of that site")
