"""What a latent is compared with: a difference of means, random directions of the same length, random latents of like firing rate, a prompt.

Owns: `Method`, an edit at any strength; the sample of text on which references, firing rates and directions are taken. A strength of 0 stands for no
edit, of 1 for the method's own reference, and random directions and the difference of means are as long as the latent's edit. Refuses: latents that
never fire (their reference would be 0), goals that never occur in the sample, operations without a strength.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from sparselight.errors import ConfigError, CorpusError, SaeError, nearest
from sparselight.intervene.control import pick_control
from sparselight.intervene.edit import Dictionary, edit_function
from sparselight.protocols import EditFunction, Example, Subject
from sparselight.records import Edit
from sparselight.records.steering import MethodKind
from sparselight.subjects.batching import batches_by_length

OPERATIONS = ("add", "clamp", "scale", "ablate")
BATCH_TOKENS = 4096
MAX_DRAWS = 50  # seeds tried for random latents that differ


@dataclass(frozen=True)
class Method:
    """One way to push the subject towards a goal, at any strength."""

    name: str
    kind: MethodKind
    what: str
    site: str
    at: Callable[[float], EditFunction]
    """The edit at a strength above 0."""
    amount: Callable[[float], float]
    """What stands behind that strength: an activation, a factor or a length."""
    edit: Edit | None = None
    """Of latents: the edit at strength 1."""
    prefix: str = ""
    """Of a prompt: text put before everything; such a method has the strength 1 only."""


@dataclass(frozen=True)
class TextSample:
    """Activations and codes of text, in the order of the tokens of `subject.prepare(examples)`."""

    examples: tuple[Example, ...]
    x: Float[Tensor, "token d_in"]
    codes: sparse.csc_matrix
    """[token, latent]."""

    @classmethod
    def take(cls, subject: Subject, coder: Dictionary, site: str, examples: Sequence[Example]) -> "TextSample":
        """Run the subject and the SAE over the examples.

        Raises:
            CorpusError: when there are no tokens.
        """
        parts: dict[int, Tensor] = {}
        codes: dict[int, sparse.csr_matrix] = {}
        for group in batches_by_length(subject.n_tokens(examples), BATCH_TOKENS):
            batch = subject.prepare([examples[index] for index in group])
            x = subject.capture(batch, [site])[site].float().cpu()
            with torch.no_grad():
                found = coder.encode(x.to(coder.W_dec.device))
            matrix = sparse.csr_matrix((found.values.cpu().numpy(), found.latents.cpu().numpy(), found.indptr.cpu().numpy()),
                                       shape=(found.n_tokens, coder.n_latents))
            for place, index in enumerate(group):
                own = (batch.example == place).nonzero()[:, 0]
                parts[index], codes[index] = x[own], matrix[own.numpy()]
        if not sum(len(part) for part in parts.values()):
            raise CorpusError(asked="take a sample of activations", why="the examples hold no tokens", instead="give examples with text")
        order = range(len(examples))
        return cls(tuple(examples), torch.cat([parts[index] for index in order]), sparse.vstack([codes[index] for index in order]).tocsc())

    @property
    def n_tokens(self) -> int:
        return len(self.x)

    def rates(self) -> dict[int, float]:
        """Firing rate of every latent."""
        counts = np.diff(self.codes.indptr)
        return {latent: int(count) / self.n_tokens for latent, count in enumerate(counts)}

    def activations(self, latent: int) -> Float[np.ndarray, " token"]:
        return np.asarray(self.codes[:, [latent]].todense()).ravel()

    def reference(self, latent: int, quantile: float) -> float:
        """A quantile of the latent's activations where it fires: what strength 1 stands for.

        Raises:
            SaeError: when it fires nowhere.
        """
        fired = self.codes.data[self.codes.indptr[latent]:self.codes.indptr[latent + 1]]
        fired = fired[fired > 0]
        if not len(fired):
            raise SaeError(asked=f"steer with latent {latent} in units of its own activations", why=f"it fires nowhere on {self.n_tokens:,} tokens of text",
                           instead="choose a latent that fires, or give more text (steer.sample_tokens)")
        return float(np.quantile(fired, quantile))


def latent_method(sample: TextSample, coder: Dictionary, site: str, source: str, latent: int, operation: str, quantile: float,
                  kind: MethodKind = "latent") -> Method:
    """A latent as a method: `add` and `clamp` in units of its own activations, `scale` by 1 + strength, `ablate` by 1 - strength.

    Raises:
        ConfigError: for another operation.
        SaeError: when the latent never fires in the sample.
    """
    if operation not in OPERATIONS:
        raise ConfigError(asked=f"study the operation {operation!r}", why="it has no strength", instead=nearest(operation, OPERATIONS))
    reference = sample.reference(latent, quantile)
    amount, done = _amounts(operation, reference)

    def edit(strength: float) -> Edit:
        return Edit(site=site, latents=[latent], operation=done, amount=amount(strength), source=source)

    words = {"add": "added", "clamp": "clamped", "scale": "scaled up", "ablate": "scaled down"}[operation]
    unit = f"its {quantile:g} quantile, {reference:.3g}" if operation in ("add", "clamp") else "all of it"
    return Method(f"{source}/{latent}", kind, f"latent {source}/{latent} {words}; strength 1 is {unit}", site,
                  lambda strength: edit_function(edit(strength), coder), amount, edit(1.0))


def random_latents(sample: TextSample, coder: Dictionary, site: str, source: str, latent: int, operation: str, quantile: float, n: int,
                   seed: int) -> list[Method]:
    """The same operation on other latents that fire about as often, each in units of its own activations."""
    rates, found = sample.rates(), dict[int, Method]()
    for draw in range(MAX_DRAWS if n else 0):
        control = pick_control(rates, latent, seed + draw)
        if control not in found:
            found[control] = latent_method(sample, coder, site, source, control, operation, quantile, "random latent")
        if len(found) == n:
            break
    return list(found.values())


def direction_method(name: str, kind: MethodKind, site: str, direction: Float[Tensor, " d_in"], operation: str, length: float,
                     mean: float) -> Method:
    """A direction as a method: added at a length, or its component scaled.

    x' = x + strength length d for add and clamp; x' = x +- strength (<x, d> - mean) d for scale and ablate, |d| = 1.

    Args:
        length: of the vector at strength 1.
        mean: of <x, d> over text, which a scaled component keeps.
    """
    unit = direction / direction.norm()
    sign = -1.0 if operation == "ablate" else 1.0
    adds = operation in ("add", "clamp")

    def at(strength: float) -> EditFunction:
        def apply(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
            d = unit.to(x)
            return x + strength * length * d if adds else x + sign * strength * ((x @ d) - mean)[:, None] * d
        return apply

    what = f"{name}, added; strength 1 is as long as the latent's edit, {length:.3g}" if adds else f"the component along {name}; strength 1 is all of it"
    return Method(name, kind, what, site, at, (lambda strength: strength * length) if adds else (lambda strength: 1 + sign * strength))


def random_directions(sample: TextSample, site: str, operation: str, length: float, n: int, seed: int) -> list[Method]:
    """Directions drawn evenly from the sphere."""
    found = []
    for number in range(n):
        direction = torch.randn(sample.x.shape[1], generator=torch.Generator().manual_seed(seed * 1009 + number))
        mean = float((sample.x @ (direction / direction.norm())).mean())
        found.append(direction_method(f"random direction {number + 1}", "random direction", site, direction, operation, length, mean))
    return found


def difference_of_means(sample: TextSample, present: Bool[np.ndarray, " token"], goal: str) -> Float[Tensor, " d_in"]:
    """mean(x | the goal is present) - mean(x | it is not), over the tokens of the sample (DiffMean: Marks and Tegmark 2023; AxBench, Wu et al. 2025).

    Raises:
        CorpusError: when the goal is present nowhere, or everywhere.
    """
    n = int(present.sum())
    if not 0 < n < len(present):
        raise CorpusError(asked=f"take the difference of means for {goal}", instead="give a goal that occurs in the text, more text (steer.sample_tokens), or "
                          "leave out 'difference of means' (steer.baselines)", why=f"it is present at {n:,} of {len(present):,} tokens")
    at = torch.from_numpy(present)
    return sample.x[at].mean(0) - sample.x[~at].mean(0)


def prompt_method(site: str, prefix: str) -> Method:
    """Text put before everything, in place of an edit."""
    return Method("prompt", "prompt", f"no edit, but the text {prefix!r} before everything", site, lambda _strength: lambda x: x, lambda strength: strength,
                  prefix=prefix)


def doubled(strengths: Sequence[float], times: int) -> Iterator[float]:
    """Further strengths above the largest."""
    return (max(strengths) * 2.0**number for number in range(1, times + 1))


def _amounts(operation: str, reference: float) -> tuple[Callable[[float], float], str]:
    """Strength to amount, and the operation that is applied."""
    if operation in ("add", "clamp"):
        return lambda strength: strength * reference, operation
    return (lambda strength: 1 - strength, "scale") if operation == "ablate" else (lambda strength: 1 + strength, "scale")
