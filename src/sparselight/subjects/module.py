"""Any PyTorch module as a subject: the user says how examples become its inputs, sparselight does the rest.

For models that are no Hugging Face language models: a ranking network, a vision encoder, a toy. The user's `prepare` returns a Batch whose
counted positions are the vectors to study; sites are module paths that hold one vector a position. Refuses: a prepare function whose
batches do not fit together, sites that the probe does not reach, loss and predictions that were not given.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction, Example
from sparselight.records import SubjectRef, TokenPolicy
from sparselight.subjects.continuing import continue_texts
from sparselight.subjects.generation import Continuation, OnText, check_generation
from sparselight.subjects.hooks import AtCounted, capturing, editing
from sparselight.subjects.hugging_face import weights_fingerprint
from sparselight.subjects.places import passing_batch
from sparselight.subjects.probe import Probe
from sparselight.subjects.site import Site, SiteTable


class ModuleSubject:
    """A PyTorch module, as `protocols.Subject`. A recipe takes one by `subject.kind = "module"`.

    Args:
        module: on the device where it is to run; it is called with `batch.inputs` by name, or with `batch.input_ids` where that is None.
        prepare: examples to a Batch. `input_ids` [row, position] number the positions (vocabulary ids, item ids, patch numbers); tensors of the
            module are [row, position, d], or [row, d] with one position a row. The counted tokens of each example stand together, in order.
        name: how records call it.
        version: of `prepare`; part of the fingerprint, so change it whenever positions or inputs come out otherwise.
        probe: a few examples, on which the sites are found.
        token_text: a token id as readable text.
        predict: the module's output and the batch to logits [token, vocabulary] at the counted tokens.
        continues: those are logits of the next token, so that texts can be continued, by token_text of what is chosen.
        stop_ids: tokens that end a continuation.
        loss: the module's output and the batch to nats [token], nan for tokens that have none.
        context_tokens: longest row that prepare makes, in positions; records say it. By default that of the probe.

    Raises:
        SubjectError: when prepare's batches do not fit together, no module holds one vector a position, or `continues` is said without `predict`.
    """

    kind = "module"
    masking = None
    layers: Sequence[nn.Module] = ()

    def __init__(
        self, module: nn.Module, prepare: Callable[[Sequence[Example]], Batch], name: str, version: str, probe: Sequence[Example],
        token_text: Callable[[int], str] = str, predict: Callable[[Any, Batch], Tensor] | None = None, loss: Callable[[Any, Batch], Tensor] | None = None,
        context_tokens: int | None = None, continues: bool = False, stop_ids: Collection[int] = (),
    ):
        self.module: Any = module.eval().requires_grad_(False)
        self.model = self.module
        self.name = name
        self.device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        self._prepare, self._token_text, self._predict, self._loss = prepare, token_text, predict, loss
        self.continues, self._stop_ids = continues, frozenset(stop_ids)
        if continues and predict is None:
            raise SubjectError(asked=f"let the module {name!r} continue texts", why="it was made without predict=", instead="give predict= to ModuleSubject")
        batch = self.prepare(probe)
        self._policy = TokenPolicy(prepend_bos=False, context_tokens=context_tokens or batch.counts.shape[1])
        self._probe = Probe(lambda: self._forward(batch), (len(batch.counts), batch.counts.shape[1]))
        possible = [Site(f"{path}:output", inner, "output") for path, inner in module.named_modules() if path]
        seen, _ = self._probe.values(possible)
        if not seen:
            raise SubjectError(asked=f"study the module {name!r}", why="on the probe, none of its modules gives one vector a position",
                               instead="check that prepare's input_ids have the shape [row, position] of the module's tensors")
        self._widths = {site.name: seen[site].shape[-1] for site in possible if site in seen}
        self._table = SiteTable(module, {site.name: site for site in possible if site in seen}, n_layers=0)
        self.fingerprint = weights_fingerprint(module, hashlib.sha256(f"{name}\0{version}".encode()))

    def __repr__(self) -> str:
        return f"ModuleSubject({self.name}: {self.n_parameters():,} parameters, {len(self._table.names())} sites, on {self.device})"

    def n_parameters(self) -> int:
        """Numbers in its parameters and buffers: modules whose weights are not to be trained hold them in buffers."""
        return sum(tensor.numel() for tensor in (*self.module.parameters(), *self.module.buffers()))

    def ref(self) -> SubjectRef:
        """How records name this subject."""
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=self._policy, kind="module")

    def sites(self) -> list[str]:
        """Outputs of modules that hold one vector a position; `PATH:input` may be used as well."""
        return self._table.names()

    def d_site(self, site: str) -> int:
        """Width of the vectors at a site.

        Raises:
            SubjectError: when there is no such site, or it holds no vector a position.
        """
        resolved = self._table.resolve(site)
        if site not in self._widths:
            self._widths[site] = self._probe.width(resolved)
        return self._widths[site]

    def prepare(self, examples: Sequence[Example]) -> Batch:
        """The user's batch, checked.

        Raises:
            SubjectError: when its parts do not fit together.
        """
        batch = self._prepare(examples)
        why = _fault(batch, len(examples))
        if why:
            raise SubjectError(asked=f"prepare {len(examples)} examples for {self.name}", why=why,
                               instead="mend the prepare function (see docs/guides/subjects.md)")
        return batch if batch.examples is not None else dataclasses.replace(batch, examples=examples)

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Counted tokens of each example."""
        return torch.bincount(self.prepare(examples).example, minlength=len(examples)).tolist() if examples else []

    def token_text(self, token_id: int) -> str:
        """The token as readable text."""
        return self._token_text(token_id)

    @torch.no_grad()
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations at the counted tokens; the forward pass ends after the last site."""
        resolved = [self._site(site) for site in dict.fromkeys(sites)]
        if not batch.n_tokens or not resolved:
            return {site.name: torch.zeros(0, self.d_site(site.name), device=self.device) for site in resolved}
        with capturing(resolved, (len(batch.counts), batch.counts.shape[1]), AtCounted(batch.counts.to(self.device), self.device)) as found:
            self._forward(batch)
        return found

    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:
        """The user's loss; refused where none was given."""
        return self._read(batch, edits, {"loss": self._loss})[0]

    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:
        """The user's logits in float32; refused where none were given."""
        return self._read(batch, edits, {"predict": self._predict})[0]

    def loss_and_logits(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None,
                        ) -> tuple[Float[Tensor, " token"], Float[Tensor, "token vocabulary"] | None]:
        """Both of one pass; None where no predictions were given."""
        found = self._read(batch, edits, {"loss": self._loss, **({"predict": self._predict} if self._predict else {})})
        return found[0], found[1] if self._predict else None

    def generate(self, text: str, n_tokens: int, edits: Mapping[str, EditFunction] | None = None, temperature: float = 0.0, seed: int = 0) -> str:
        """Continue a text; see `generate_many`."""
        return self.generate_many([text], n_tokens, edits, temperature, seed)[0].text

    def generate_many(
        self, texts: Sequence[str | Example], n_tokens: int, edits: Mapping[str, EditFunction] | Sequence[Mapping[str, EditFunction] | None] | None = None,
        temperature: float = 0.0, seeds: int | Sequence[int] = 0, on_text: OnText | None = None, max_rows: int = 256,
    ) -> list[Continuation]:
        """Continue many texts, each with its own edits and seed; every step reads the whole text (`continuing`).

        Args:
            edits: for all rows, or one a row; so are seeds.

        Raises:
            SubjectError: when nothing says what comes next (`continues`); when edits or seeds are not one a row.
        """
        if not self.continues:
            raise self._has_no("continuation of a text", "give predict= and continues=True to ModuleSubject where it predicts the next token")
        check_generation(len(texts), n_tokens, edits, temperature, seeds)
        examples = [text if isinstance(text, Example) else Example(f"prompt {number}", text, f"prompt {number}") for number, text in enumerate(texts)]
        per_row = [edits] * len(texts) if edits is None or isinstance(edits, Mapping) else edits
        numbers = [seeds] * len(texts) if isinstance(seeds, int) else seeds
        return continue_texts(self, examples, n_tokens, per_row, temperature, numbers, self._stop_ids, on_text, max_rows)

    def output_effects(self, *_args: Any) -> NoReturn:
        """Refused: nothing says how a direction leads to predictions."""
        raise self._has_no("straight way from a direction to predictions")

    def with_max_norms(self, *_args: Any) -> NoReturn:
        """Refused: which positions count is up to prepare."""
        raise self._has_no("policy of norms")

    def _has_no(self, what: str, instead: str = "harvest, train, evaluate and explain with it, or compare predictions after an edit") -> SubjectError:
        return SubjectError(asked=f"ask {self.name} for its {what}", why="this module has none", instead=instead)

    @torch.no_grad()
    def _read(self, batch: Batch, edits: Mapping[str, EditFunction] | None, readers: Mapping[str, Callable[[Any, Batch], Tensor] | None]) -> list[Tensor]:
        """What the user's functions read from the output of one pass."""
        for argument, read in readers.items():
            if read is None:
                raise SubjectError(asked=f"ask the module {self.name!r} for its {argument}", why=f"it was made without {argument}=",
                                   instead=f"give {argument}= to ModuleSubject")
        resolved = {self._site(name): edit for name, edit in (edits or {}).items()}
        with editing(resolved, batch.counts.to(self.device)):
            output = self._forward(batch)
        values = {argument: read(output, batch).float() for argument, read in readers.items() if read is not None}
        for argument, value in values.items():
            if len(value) != batch.n_tokens:
                raise SubjectError(asked=f"ask the module {self.name!r} for its {argument}", why=f"it gave {len(value)} values for {batch.n_tokens} tokens",
                                   instead=f"mend the {argument} function")
        return list(values.values())

    def _site(self, name: str) -> Site:
        self.d_site(name)
        return self._table.resolve(name)

    def _forward(self, batch: Batch) -> Any:
        with passing_batch(batch):
            if batch.inputs is None:
                return self.module(batch.input_ids.to(self.device))
            return self.module(**{name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in batch.inputs.items()})


def _fault(batch: Batch, n_examples: int) -> str:
    """What does not fit together in a user's batch, in words; empty where all does."""
    if not batch.input_ids.shape == batch.attention_mask.shape == batch.counts.shape or batch.counts.ndim != 2:
        return "input_ids, attention_mask and counts are not of one [row, position] shape"
    if batch.counts.dtype != torch.bool or int(batch.counts.sum()) != batch.n_tokens:
        return f"counts is not a mask with one true position for each of the {batch.n_tokens} tokens"
    columns = {name: getattr(batch, name) for name in ("example", "position", "token_id", "char_start", "char_end")}
    for name, column in columns.items():
        if column.shape != (batch.n_tokens,):
            return f"{name} has shape {list(column.shape)} for {batch.n_tokens} tokens"
    if not torch.equal(batch.input_ids[batch.counts], batch.token_id):
        return "token_id is not input_ids at the counted positions"
    if batch.n_tokens and (bool((batch.example.diff() < 0).any()) or not 0 <= int(batch.example[0]) <= int(batch.example[-1]) < n_examples):
        return "the tokens are not in the order of the examples"
    return ""
