"""A causal language model as a subject: Llama, Gemma, Qwen, GPT-2, GPT-NeoX, OPT and whatever Hugging Face loads as one.

Owns: next-token loss and logits, generation with edits, output effects. Refuses: models that look ahead or have no output layer.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction, Example
from sparselight.subjects.generation import Continuation, Continuing, OnText, Row, check_generation, groups_of
from sparselight.subjects.hugging_face import HuggingFaceSubject, cross_entropy, output_layer
from sparselight.subjects.output import norm_gain
from sparselight.subjects.probe import check_causal, left_padding_positions
from sparselight.subjects.resume import Scoring
from sparselight.subjects.rows import Stretch


class CausalLM(HuggingFaceSubject):
    """A causal language model with its tokenizer, as `protocols.Subject`."""

    kind: ClassVar[Literal["causal_lm", "image_text"]] = "causal_lm"

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

    def generate(self, text: str, n_tokens: int, edits: Mapping[str, EditFunction] | None = None, temperature: float = 0.0, seed: int = 0,
                 use_cache: bool = True, on_text: OnText | None = None) -> str:
        """Continue a text; edits act on every counted token of the prompt and of the continuation, or where they say.

        Args:
            n_tokens: longest continuation; it ends earlier at an end-of-text token.
            temperature: 0 takes the likeliest token; above 0 draws from softmax(logits / temperature).
            use_cache: keep keys and values of earlier positions, so that each step runs one position. The text is the same without.
            on_text: gets each piece of text as it is written, with the row's number 0.

        Returns:
            The continuation without the prompt.

        Raises:
            SubjectError: when prompt and continuation exceed context_tokens, or there is nothing to continue.
        """
        return self.generate_many([text], n_tokens, edits, temperature, seed, use_cache, on_text)[0].text

    def generate_many(
        self, texts: Sequence[str | Example], n_tokens: int, edits: Mapping[str, EditFunction] | Sequence[Mapping[str, EditFunction] | None] | None = None,
        temperature: float = 0.0, seeds: int | Sequence[int] = 0, use_cache: bool = True, on_text: OnText | None = None, max_rows: int = 256,
    ) -> list[Continuation]:
        """Continue many texts, or one text many times, each with its own edits.

        Texts that are alike run once, and so do texts whose edits act on generated tokens only: give the same function objects to rows that share
        an edit. A row's continuation depends on its text, edits and seed alone.

        Args:
            texts: or examples, for edits that act at annotations.
            edits: for all rows, or one a row.
            seeds: for all rows, or one a row.
            on_text: gets the row's number and each piece of its text as it is written.
            max_rows: rows that run through the model together.

        Raises:
            SubjectError: as `generate`; when edits or seeds are not one a row.
        """
        check_generation(len(texts), n_tokens, edits, temperature, seeds)
        per_row: Sequence[Mapping[str, EditFunction] | None] = [edits] * len(texts) if edits is None or isinstance(edits, Mapping) else edits
        resolved = {id(own): self._resolve_edits(own) for own in per_row}
        numbers = [seeds] * len(texts) if isinstance(seeds, int) else list(seeds)
        rows = []
        for number, text in enumerate(texts):
            example = text if isinstance(text, Example) else Example(f"prompt {number}", text, f"prompt {number}")
            prompt = self._prompt(example)
            self._check_room(len(prompt.ids), n_tokens)
            draws = torch.rand(n_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(numbers[number])) if temperature else None
            rows.append(Row(number, prompt, example, resolved[id(per_row[number])], draws))
        result: dict[int, Continuation] = {}
        any_length = len({len(row.prompt.ids) for row in rows}) == 1 or self.left_padding is not None
        for group in groups_of(rows, max_rows, any_length):
            continuing = Continuing(self, group, temperature, on_text)
            continuing.run(n_tokens, use_cache)
            result |= {row.number: continuing.finish(row) for row in group}
        return [result[number] for number in range(len(texts))]

    @functools.cached_property
    def left_padding(self) -> bool | None:
        """Whether rows that are padded on the left need position ids given; None where such padding changes what the model computes."""
        try:
            return left_padding_positions(self._run_rows, self._tokens.vocabulary.pad_id, self.device, self.name)
        except SubjectError:
            return None

    # What a kind of causal model says of its prompts and passes.

    def _prompt(self, example: Example) -> Stretch:
        """The row that is continued."""
        return self._tokens.prompt(example.text)

    def _row_arguments(self, prompts: Sequence[Stretch], ids: Tensor, mask: Tensor) -> dict[str, Any]:  # noqa: ARG002
        """What a pass over rows from their beginning is given beside ids and mask."""
        return {}

    def _step_arguments(self, prompts: Sequence[Stretch], mask: Tensor) -> dict[str, Any]:  # noqa: ARG002
        """What a pass over the last position of each row is given beside ids, mask and cache."""
        return {}

    def _candidates(self, logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
        """Logits with what may never be written left out."""
        return logits

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

