"""A causal language model as a subject: Llama, Gemma, Qwen, GPT-2, GPT-NeoX, OPT and whatever Hugging Face loads as one.

Owns: rows by the token policy, capture, loss, next-token logits and generation, each with edits. Everything runs without
gradients; columns of a batch live on the CPU, activations and logits on the subject's device, in float32. Refuses: models that
look ahead, have no output layer, or cannot hold rows of context_tokens.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction, Example
from sparselight.records import SubjectRef
from sparselight.subjects.hooks import capturing, editing
from sparselight.subjects.output import norm_gain
from sparselight.subjects.probe import probe_model, probe_site
from sparselight.subjects.site import Site, SiteTable
from sparselight.subjects.tokens import RowTokenizer

LOSS_CHUNK_TOKENS = 2048  # bounds the second copy of the logits that a softmax makes


class CausalLM:
    """A causal language model with its tokenizer, as `protocols.Subject`.

    Args:
        model: a Hugging Face model with an output layer, on the device where it is to run.
        tokenizer: its fast tokenizer.
        name: how records call it.
        context_tokens: longest row, BOS included.

    Raises:
        SubjectError: when the model cannot be studied this way.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, context_tokens: int = 512):
        self.model: Any = model.eval().requires_grad_(False)
        self.name = name
        self.device: torch.device = next(model.parameters()).device
        self._tokens = RowTokenizer(tokenizer, context_tokens)
        self._table = SiteTable(model)
        _check_context(model, name, context_tokens)
        self._head: Any = _output_layer(model, name)
        self._widths = probe_model(model, [self._table.resolve(site) for site in self._table.names()], name)
        self.fingerprint = _fingerprint(model, self._tokens)

    def __repr__(self) -> str:
        return f"CausalLM({self.name}: {self.n_parameters():,} parameters, {self._table.n_layers} layers, on {self.device})"

    def ref(self) -> SubjectRef:
        """How records name this subject."""
        return SubjectRef(name=self.name, fingerprint=self.fingerprint, token_policy=self._tokens.policy)

    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def sites(self) -> list[str]:
        """Standard sites; every `PATH:input` and `PATH:output` may be used as well."""
        return self._table.names()

    def d_site(self, site: str) -> int:
        """Width of the vectors at a site.

        Raises:
            SubjectError: when there is no such site, or it holds no vector a position.
        """
        resolved = self._table.resolve(site)
        if site not in self._widths:
            self._widths[site] = probe_site(self.model, resolved)
        return self._widths[site]

    def prepare(self, examples: Sequence[Example]) -> Batch:
        """Rows of all examples by the token policy; every token of every example is in them exactly once."""
        return self._tokens.batch(examples)

    def n_tokens(self, examples: Sequence[Example]) -> list[int]:
        """Counted tokens of each example."""
        return self._tokens.n_tokens([example.text for example in examples])

    def token_text(self, token_id: int) -> str:
        """The token as readable text."""
        return self._tokens.token_text(token_id)

    @torch.no_grad()
    def capture(self, batch: Batch, sites: Sequence[str]) -> dict[str, Float[Tensor, "token d_in"]]:
        """Activations at the counted tokens; the forward pass ends after the last site."""
        resolved = [self._site(site) for site in dict.fromkeys(sites)]
        if not batch.n_tokens or not resolved:
            return {site.name: torch.zeros(0, self.d_site(site.name), device=self.device) for site in resolved}
        counts = batch.counts.to(self.device)
        with capturing(resolved, (len(counts), counts.shape[1]), lambda _site, value: value[counts].float()) as found:
            self._forward(batch.input_ids, batch.attention_mask)
        return found

    @torch.no_grad()
    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:
        """Cross entropy of every counted token in nats: -log p(token | what stands before it in its row); nan where nothing does."""
        where = batch.counts.nonzero()
        predicted = where[:, 1] > 0
        result = torch.full((batch.n_tokens,), float("nan"), device=self.device)
        logits = self._logits(batch, edits, where[predicted] - torch.tensor([0, 1]))
        targets = batch.token_id[predicted].to(self.device)
        parts = [
            chunk.float().logsumexp(-1) - chunk.float().gather(-1, target[:, None])[:, 0]
            for chunk, target in zip(logits.split(LOSS_CHUNK_TOKENS), targets.split(LOSS_CHUNK_TOKENS), strict=True)
        ]
        result[predicted.to(self.device)] = torch.cat(parts)
        return result

    @torch.no_grad()
    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:
        """Logits of the token that follows each counted token."""
        return self._logits(batch, edits, batch.counts.nonzero()).float()

    @torch.no_grad()
    def output_effects(self, directions: Float[Tensor, "latent d_in"], site: str) -> Float[Tensor, "latent vocabulary"]:
        """How directions in the residual stream move the next-token logits, seen straight through the output layer.

        Logit lens (nostalgebraist 2020; for decoder directions, Bricken et al. 2023): effect = (d * g) W_U^T, where g is the gain of
        the final normalization and d is centred first where that normalization centres. The normalization's scale, layers in between
        and any scaling of the logits are left out, so only the order and the relative size within one direction mean something.

        Raises:
            SubjectError: for a site outside the residual stream.
        """
        width = self._head.weight.shape[1]
        if site.partition(".")[0] not in ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out") or self.d_site(site) != width:
            raise SubjectError(asked=f"read the output effects of directions at {site!r}", instead="use a site such as resid_post.N",
                               why="only directions in the residual stream lead straight to the output layer")
        norm = self._table.final_norm()
        rows = directions.to(device=self.device, dtype=torch.float32)
        if norm is not None:
            gain, centres = norm_gain(norm, width, self._head.weight)
            rows = (rows - rows.mean(-1, keepdim=True) if centres else rows) * gain
        return rows @ self._head.weight.float().T

    @torch.no_grad()
    def generate(self, text: str, n_tokens: int, edits: Mapping[str, EditFunction] | None = None, temperature: float = 0.0, seed: int = 0,
                 use_cache: bool = True) -> str:
        """Continue a text; edits act on every counted token of the prompt and of the continuation.

        Args:
            n_tokens: longest continuation; it ends earlier at an end-of-text token.
            temperature: 0 takes the likeliest token; above 0 draws from softmax(logits / temperature).
            use_cache: keep keys and values of earlier positions, so that each step runs one position. The text is the same without.

        Returns:
            The continuation without the prompt.

        Raises:
            SubjectError: when prompt and continuation exceed context_tokens, or there is nothing to continue.
        """
        ids = self._tokens.ids(text)
        n_prompt, generator = len(ids), torch.Generator().manual_seed(seed)
        self._check_room(n_prompt, n_tokens)
        resolved, cache = self._resolve_edits(edits), None
        for _ in range(n_tokens):
            fresh = ids[-1:] if cache is not None else ids
            with editing(resolved, self._tokens.counts(fresh).to(self.device)):
                seen = torch.ones(1, len(ids), device=self.device, dtype=torch.int64)
                output = self.model(input_ids=torch.tensor([fresh], device=self.device), attention_mask=seen, past_key_values=cache, use_cache=use_cache)
            cache = output.past_key_values if use_cache else None
            ids.append(_choose(output.logits[0, -1].float().cpu(), temperature, generator))
            if ids[-1] in self._tokens.stop_ids:
                break
        return self._tokens.continuation(ids, n_prompt)

    def _site(self, name: str) -> Site:
        self.d_site(name)  # refuses a site without one vector a position before the long pass
        return self._table.resolve(name)

    def _resolve_edits(self, edits: Mapping[str, EditFunction] | None) -> dict[Site, EditFunction]:
        return {self._site(name): edit for name, edit in (edits or {}).items()}

    def _forward(self, input_ids: Int[Tensor, "row position"], attention_mask: Bool[Tensor, "row position"]) -> Any:
        return self.model(input_ids=input_ids.to(self.device), attention_mask=attention_mask.to(self.device, torch.int64), use_cache=False)

    def _logits(self, batch: Batch, edits: Mapping[str, EditFunction] | None, where: Int[Tensor, "entry 2"]) -> Float[Tensor, "entry vocabulary"]:
        """Logits at (row, position) pairs only: the output layer sees no other positions."""
        resolved = self._resolve_edits(edits)
        if not len(where):
            return torch.zeros(0, self._head.weight.shape[0], device=self.device)
        rows, positions = where.to(self.device).unbind(1)
        at_head = any(site.module is self._head for site in resolved)  # then the layer must see all positions, for the edit's sake
        with contextlib.ExitStack() as stack:
            stack.enter_context(editing(resolved, batch.counts.to(self.device)))
            if not at_head:
                stack.callback(self._head.register_forward_pre_hook(lambda _module, args: (args[0][rows, positions][None], *args[1:])).remove)
            logits = self._forward(batch.input_ids, batch.attention_mask).logits
        return logits[rows, positions] if at_head else logits[0]

    def _check_room(self, n_prompt: int, n_tokens: int) -> None:
        asked, limit = f"continue a text of {n_prompt} tokens by {n_tokens}", self._tokens.policy.context_tokens
        if n_prompt + n_tokens > limit:
            raise SubjectError(asked=asked, why=f"together they exceed subject.context_tokens = {limit}", instead="shorten the text or the continuation")
        if not n_prompt:
            raise SubjectError(asked=asked, why="this model has no BOS token to start from", instead="give some text")


def _choose(logits: Float[Tensor, " vocabulary"], temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))


def _fingerprint(model: nn.Module, tokens: RowTokenizer) -> str:
    """SHA-256 over the tokenizer, the token policy and the weights in sorted order."""
    digest = hashlib.sha256(tokens.fingerprint().encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_context(model: Any, name: str, context_tokens: int) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and context_tokens > longest:
        raise SubjectError(asked=f"run {name} with subject.context_tokens = {context_tokens}", why=f"the model has {longest} positions",
                           instead=f"set subject.context_tokens to {longest} or less")


def _output_layer(model: Any, name: str) -> nn.Module:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(head, nn.Module):
        raise SubjectError(asked=f"study {name} as a causal language model", why="it has no output layer that predicts tokens",
                           instead="choose a model that loads as AutoModelForCausalLM")
    return head
