"""What all Hugging Face models have in common as subjects: rows by the token policy, sites, capture, logits at chosen positions.

Everything runs without gradients; columns of a batch live on the CPU, activations and logits on the subject's device, in float32. Refuses:
rows that the model cannot hold, padding or packing that would change its activations, and what its kind has not (loss, generation).
"""

import contextlib
import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction, Example
from sparselight.records import Masking, SubjectRef
from sparselight.subjects.batching import narrow_parts
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.families import Layout, lay_out
from sparselight.subjects.hooks import AtCounted, Counts, capturing, editing, own_thread
from sparselight.subjects.places import passing_batch
from sparselight.subjects.probe import PROBE_IDS, Probe, check_packing, left_padding_positions
from sparselight.subjects.rows import RowBuilder
from sparselight.subjects.site import Site, SiteTable
from sparselight.subjects.wiring import standard_sites

# Model types whose first position has the number of the padding token + 1.
POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "longformer", "mpnet", "esm"}


class HuggingFaceSubject:
    """A Hugging Face model with its tokenizer, as `protocols.Subject`.

    Args:
        model: on the device where it is to run.
        tokenizer: its tokenizer.
        name: how records call it.
        context_tokens: longest row, special tokens included; takes the place of the one in settings.
        settings: what the model sees of a text.

    Raises:
        SubjectError: when the model cannot be studied this way.
    """

    kind: ClassVar[Literal["causal_lm", "masked_lm", "encoder", "image_text"]]
    masking: Masking | None = None
    layers: list[nn.Module]
    """The layers of the residual stream in order; empty where they are not known."""
    source: str = ""
    """The folder that it was loaded from, where its name does not load it."""
    _head: Any = None
    """The layer that predicts tokens, of kinds that predict."""

    def __init__(self, model: Any, tokenizer: Any, name: str, context_tokens: int | None = None, settings: TokenSettings | None = None):
        settings = settings or TokenSettings()
        if context_tokens is not None:
            settings = type(settings).parse({**settings.model_dump(mode="json"), "context_tokens": context_tokens}, "subject")
        self.model: Any = model.eval().requires_grad_(False)
        self.name = name
        self.device: torch.device = next(model.parameters()).device
        if any(parameter.is_meta for parameter in model.parameters()):
            raise SubjectError(asked=f"study {name}", why="a part of it does not fit into memory and was left on disk",
                               instead="use subject.dtype = 'bfloat16', subject.quantize, or a machine with more memory")
        self._tokens = self._make_rows(tokenizer, settings)
        _check_context(model, name, settings.context_tokens)
        self._prepare_model()
        self._quantized = weights_fingerprint(model, hashlib.sha256()) if getattr(model, "is_quantized", False) else None
        self.fingerprint = self._fingerprint()
        probe_output = self._find_sites()
        self._check_output(probe_output)
        self._needs_positions = settings.padding_side == "left" and left_padding_positions(
            self._run_rows, self._tokens.vocabulary.pad_id, self.device, name)
        if settings.pack:
            self._check_packing()
        for site in settings.max_norms:
            self.d_site(site)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {self.n_parameters():,} parameters, {self._table.n_layers} layers, on {self.device})"

    def ref(self) -> SubjectRef:
        """How records name this subject."""
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=self._tokens.policy, kind=self.kind, masking=self.masking,
                          source=self.source)

    @property
    def n_vocabulary(self) -> int:
        """Candidates of a prediction, of kinds that predict."""
        return int(self._head.weight.shape[0])

    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def sites(self) -> list[str]:
        """Standard sites; every `PATH:input` and `PATH:output` may be used as well."""
        return self._table.names()

    @property
    def wirings(self) -> list[str]:
        """How each layer adds up (`wiring.py`): sequential, post_norm, parallel or unknown."""
        return list(self._wirings)

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
        """Rows of all examples by the token policy; every token that counts is in them exactly once."""
        return dataclasses.replace(self._tokens.batch(examples), examples=examples)

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Counted tokens of each example."""
        return self._tokens.n_tokens([example.text for example in examples])

    def token_text(self, token_id: int) -> str:
        """The token as readable text."""
        return self._tokens.vocabulary.token_text(token_id)

    def with_max_norms(self, max_norms: Mapping[str, float]) -> "HuggingFaceSubject":
        """The same model with a token policy that leaves out larger activations at these sites; its fingerprint is another one."""
        other, other_tokens = copy.copy(self), copy.copy(self._tokens)
        for site in max_norms:
            self.d_site(site)
        other_tokens.policy = self._tokens.policy.model_copy(update={"max_norms": dict(max_norms)})
        other._tokens = other_tokens
        other.fingerprint = other._fingerprint()
        return other

    @torch.no_grad()
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations at the counted tokens; the forward pass ends after the last site."""
        resolved = [self._site(site) for site in dict.fromkeys(sites)]
        if not batch.n_tokens or not resolved:
            return {site.name: torch.zeros(0, self.d_site(site.name), device=self.device) for site in resolved}
        parts = narrow_parts(batch, self._tokens.policy.padding_side)
        found = [(tokens, self._capture_rows(part, resolved)) for tokens, part in parts]
        if len(found) == 1:
            return found[0][1]
        whole = {site: torch.empty(batch.n_tokens, x.shape[1], device=self.device) for site, x in found[0][1].items()}
        for tokens, captured in found:
            for site, x in captured.items():
                whole[site][tokens.to(self.device)] = x
        return whole

    def _capture_rows(self, batch: Batch, resolved: Sequence[Site]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations at the counted tokens, by one forward pass."""
        shape = (len(batch.counts), batch.counts.shape[1])
        with capturing(resolved, shape, AtCounted(batch.counts.to(self.device), self.device)) as found:
            self._forward(batch)
        return found

    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:  # noqa: ARG002
        """Refused for kinds without predictions."""
        raise self._has_no("loss")

    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:  # noqa: ARG002
        """Refused for kinds without predictions."""
        raise self._has_no("predictions")

    def generate(self, text: str, n_tokens: int, edits: Mapping[str, EditFunction] | None = None, temperature: float = 0.0,  # noqa: ARG002
                 seed: int = 0) -> str:  # noqa: ARG002
        """Refused for kinds that do not write text from left to right."""
        raise self._has_no("continuation of a text")

    def generate_many(self, texts: Sequence[str | Example], n_tokens: int, edits: Any = None, temperature: float = 0.0,  # noqa: ARG002
                      seeds: int | Sequence[int] = 0, use_cache: bool = True, on_text: Any = None, max_rows: int = 0) -> list[Any]:  # noqa: ARG002
        """Refused for kinds that do not write text from left to right."""
        raise self._has_no("continuation of a text")

    def output_effects(self, directions: Float[Tensor, "latent d_in"], site: str) -> Float[Tensor, "latent vocabulary"]:  # noqa: ARG002
        """Refused for kinds whose residual stream does not lead straight to predictions."""
        raise self._has_no("straight way from the residual stream to predictions")

    def _has_no(self, what: str) -> SubjectError:
        return SubjectError(asked=f"ask {self.name} for its {what}", why=f"a subject of kind {self.kind} has none",
                            instead="harvest, train and explain with it, or choose a causal language model (subject.source)")

    def _fingerprint(self) -> str:
        """SHA-256 over the tokenizer, the token policy and the weights. Quantized weights are read once, before the first pass: it repacks them."""
        digest = hashlib.sha256(self._tokens.fingerprint().encode())
        if self._quantized is None:
            return weights_fingerprint(self.model, digest)
        digest.update(self._quantized.encode())
        return digest.hexdigest()

    # What a kind of model says of itself.

    def _make_rows(self, tokenizer: Any, settings: TokenSettings) -> RowBuilder:
        if settings.pooling != "none":
            raise SubjectError(asked=f"pool the activations of {self.name} (subject.pooling)", why=f"it is a {self.kind}, not an encoder",
                               instead="set subject.pooling = 'none', or subject.kind = 'encoder'")
        return RowBuilder(tokenizer, settings, is_causal=self.kind == "causal_lm")

    def _prepare_model(self) -> None:
        """Find the parts of the model that this kind needs."""

    def _check_output(self, output: Any) -> None:
        """Refuse a model whose output on PROBE_IDS shows that it is of another kind."""

    def _check_packing(self) -> None:
        check_packing(self._run_rows, self.device, self.name)

    def _call(self, input_ids: Tensor, **arguments: Any) -> Any:
        return self.model(input_ids=input_ids, **arguments)

    # Passes.

    def _make_probe(self) -> Probe:
        ids = torch.tensor(PROBE_IDS, device=self.device)
        return Probe(lambda: self._call(ids, attention_mask=torch.ones_like(ids)), (len(ids), ids.shape[1]))

    def _layout(self) -> Layout:
        return lay_out(self.model)

    def _find_sites(self) -> Any:
        self._probe, layout = self._make_probe(), self._layout()
        try:
            seen, output = self._probe.values(layout.sites())
        except Exception as err:  # the first pass of foreign code; quantized layers refuse some shapes only here
            lines = str(err).strip().splitlines() or [type(err).__name__]
            raise SubjectError(asked=f"run {self.name} on four tokens", why=f"it fails with {type(err).__name__}: {lines[0].rstrip('.')}",
                               instead="try another subject.kind, subject.dtype or subject.quantize, or a release of transformers that fits the model") from err
        found = standard_sites(layout, seen)
        self._wirings, self._final_norm = found.wirings, layout.final_norm
        self.layers = [layer.after.module for layer in layout.layers]
        self._table = SiteTable(self.model, found.sites, len(layout.layers), found.refused)
        self._widths = {name: seen[site].shape[-1] for name, site in found.sites.items()}
        return output

    def _site(self, name: str) -> Site:
        self.d_site(name)  # refuses a site without one vector a position before the long pass
        return self._table.resolve(name)

    def _resolve_edits(self, edits: Mapping[str, EditFunction] | None) -> dict[Site, EditFunction]:
        return {self._site(name): edit for name, edit in (edits or {}).items()}

    def _editing(self, resolved: Mapping[Site, EditFunction], counts: Counts | Callable[[], Counts]) -> contextlib.AbstractContextManager[None]:
        return editing(resolved, counts if callable(counts) else counts.to(self.device), self._tokens.policy.max_norms)

    def _forward(self, batch: Batch) -> Any:
        with passing_batch(batch):
            return self._run_batch(batch)

    def _run_batch(self, batch: Batch) -> Any:
        ids, mask = batch.input_ids.to(self.device), batch.attention_mask.to(self.device, torch.int64)
        if batch.segment is not None:  # without a mask, positions that start anew divide a row into examples
            return self._call(ids, attention_mask=None, position_ids=_positions(batch.segment).to(self.device))
        if self._needs_positions:
            return self._call(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
        return self._call(ids, attention_mask=mask)

    def _run_rows(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        output = self._call(ids, attention_mask=mask, **({} if positions is None else {"position_ids": positions}))
        return next(iter(output.values()))

    def _logits(self, batch: Batch, edits: Mapping[str, EditFunction] | None, where: Int[Tensor, "entry 2"], head: Any) -> Float[Tensor, "entry vocabulary"]:
        """Logits at (row, position) pairs only: the output layer sees no other positions."""
        resolved = self._resolve_edits(edits)
        if not len(where):
            return torch.zeros(0, head.weight.shape[0], device=self.device)
        rows, positions = where.to(self.device).unbind(1)
        at_head = any(site.module is head for site in resolved)  # then the layer must see all positions, for the edit's sake
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._editing(resolved, batch.counts))
            if not at_head:
                stack.callback(head.register_forward_pre_hook(own_thread(lambda _module, args: (args[0][rows, positions][None], *args[1:]))).remove)
            logits = self._forward(batch).logits
        return logits[rows, positions] if at_head else logits[0]


def cross_entropy(logits: Float[Tensor, "token vocabulary"], targets: Int[Tensor, " token"], chunk_tokens: int = 2048) -> Float[Tensor, " token"]:
    """-log softmax(logits)[target] in nats, in float32; chunks bound the second copy of the logits that a softmax makes."""
    parts = [chunk.float().logsumexp(-1) - chunk.float().gather(-1, target[:, None])[:, 0]
             for chunk, target in zip(logits.split(chunk_tokens), targets.to(logits.device).split(chunk_tokens), strict=True)]
    return torch.cat(parts) if parts else logits.new_zeros(0)


def output_layer(model: Any, name: str, kind: str, loader: str) -> Any:
    """The layer that predicts tokens.

    Raises:
        SubjectError: when the model has none.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(head, nn.Module):
        raise SubjectError(asked=f"study {name} as a {kind}", why="it has no output layer that predicts tokens",
                           instead=f"choose a model that loads as {loader}, or set subject.kind = 'encoder'")
    return head


def _positions(segment: Int[Tensor, "row position"]) -> Int[Tensor, "row position"]:
    """Running number of each position in its segment."""
    index = torch.arange(segment.shape[1]).expand_as(segment)
    begins = torch.ones_like(segment, dtype=torch.bool)
    begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
    return index - torch.where(begins, index, 0).cummax(1).values


def weights_fingerprint(model: nn.Module, digest: Any) -> str:
    """A SHA-256 that has begun, continued over the weights in sorted order."""
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return str(digest.hexdigest())


def _check_context(model: Any, name: str, context_tokens: int) -> None:
    config = getattr(model.config, "text_config", model.config)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None:
        return
    if config.model_type in POSITIONS_AFTER_PADDING:
        longest -= (config.pad_token_id or 0) + 1
    if context_tokens > longest:
        raise SubjectError(asked=f"run {name} with subject.context_tokens = {context_tokens}", why=f"the model has {longest} positions",
                           instead=f"set subject.context_tokens to {longest} or less")
