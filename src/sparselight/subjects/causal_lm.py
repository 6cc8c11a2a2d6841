"""A causal language model as a subject: Llama, Gemma, Qwen, GPT-2, GPT-NeoX, OPT and whatever Hugging Face loads as one.

Owns: next-token loss and logits, generation with edits, output effects. Refuses: models that look ahead or have no output layer.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction
from sparselight.subjects.hugging_face import HuggingFaceSubject, cross_entropy, output_layer
from sparselight.subjects.output import norm_gain
from sparselight.subjects.probe import check_causal
from sparselight.subjects.resume import Scoring


class CausalLM(HuggingFaceSubject):
    """A causal language model with its tokenizer, as `protocols.Subject`."""

    kind = "causal_lm"

    @torch.no_grad()
    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:
        """Cross entropy of every counted token in nats: -log p(token | what stands before it in its row); nan where nothing does."""
        result = torch.full((batch.n_tokens,), float("nan"), device=self.device)
        for one in self.scorings(batch):
            result[one.tokens.to(self.device)] = cross_entropy(self._logits(one.batch, edits, one.where, self._head), batch.token_id[one.tokens])
        return result

    def scorings(self, batch: Batch) -> Iterator[Scoring]:
        """The one pass that scores every token with something before it."""
        scored = self.scored(batch)
        yield Scoring(batch, scored.nonzero()[:, 0], batch.counts.nonzero()[scored] - torch.tensor([0, 1]))

    def scored(self, batch: Batch) -> Tensor:
        """Which counted tokens have a loss: those with a position before them in their row, or in their example's part of a packed row."""
        if not batch.n_tokens:
            return torch.zeros(0, dtype=torch.bool)
        follows = torch.zeros_like(batch.counts)
        follows[:, 1:] = batch.attention_mask[:, :-1]
        if batch.segment is not None:
            follows[:, 1:] &= batch.segment[:, 1:] == batch.segment[:, :-1]
        return follows[batch.counts]

    @torch.no_grad()
    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:
        """Logits of the token that follows each counted token."""
        return self._logits(batch, edits, batch.counts.nonzero(), self._head).float()

    @torch.no_grad()
    def output_effects(self, directions: Float[Tensor, "latent d_in"], site: str) -> Float[Tensor, "latent vocabulary"]:
        """How directions in the residual stream move the next-token logits, seen straight through the output layer.

        Logit lens (nostalgebraist 2020; for decoder directions, Bricken et al. 2023): effect = (d * g) W_U^T, where g is the gain of
        the final normalization and d is centered first where that normalization centers. The normalization's scale, layers in between
        and any scaling of the logits are left out, so only the order and the relative size within one direction mean something.

        Raises:
            SubjectError: for a site outside the residual stream.
        """
        width = self._head.weight.shape[1]
        streams = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
        if site.partition(".")[0] not in streams or self.d_site(site) != width:
            raise SubjectError(asked=f"read the output effects of directions at {site!r}", instead="use a site such as resid_post.N",
                               why="only directions in the residual stream lead straight to the output layer")
        rows = directions.to(device=self.device, dtype=torch.float32)
        if self._final_norm is not None:
            gain, centers = norm_gain(self._final_norm, width, self._head.weight)
            rows = (rows - rows.mean(-1, keepdim=True) if centers else rows) * gain
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
        ids, counts = self._tokens.prompt(text)
        n_prompt, generator = len(ids), torch.Generator().manual_seed(seed)
        self._check_room(n_prompt, n_tokens)
        resolved, cache = self._resolve_edits(edits), None
        for _ in range(n_tokens):
            start = len(ids) - 1 if cache is not None else 0
            with self._editing(resolved, torch.tensor([counts[start:]])):
                seen = torch.ones(1, len(ids), device=self.device, dtype=torch.int64)
                output = self.model(input_ids=torch.tensor([ids[start:]], device=self.device), attention_mask=seen, past_key_values=cache, use_cache=use_cache)
            cache = output.past_key_values if use_cache else None
            ids.append(_choose(output.logits[0, -1].float().cpu(), temperature, generator))
            counts.append(self._tokens.counts_token(ids[-1]))
            if ids[-1] in self._tokens.vocabulary.stop_ids:
                break
        return self._tokens.vocabulary.continuation(ids, n_prompt)

    def _prepare_model(self) -> None:
        self._head: Any = output_layer(self.model, self.name, "causal language model", "AutoModelForCausalLM")

    def _check_output(self, output: Any) -> None:
        check_causal(output.logits.float(), self.name)

    def _call(self, input_ids: Tensor, **arguments: Any) -> Any:
        return self.model(input_ids=input_ids, use_cache=False, **arguments)

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
