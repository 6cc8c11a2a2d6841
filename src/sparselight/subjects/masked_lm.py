"""A masked language model as a subject: BERT, RoBERTa, DistilBERT, ModernBERT, ESM-2 and whatever Hugging Face loads as one.

Owns: the masked loss, which hides tokens in a fixed pattern and so is the same on every call, and logits at every counted position.
Refuses: models or tokenizers without a mask token, more rounds than there are groups of tokens, packed rows.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, EditFunction
from sparselight.records import Masking
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.hugging_face import HuggingFaceSubject, cross_entropy, output_layer
from sparselight.subjects.resume import Scoring


class MaskedLM(HuggingFaceSubject):
    """A masked language model with its tokenizer, as `protocols.Subject`.

    Args:
        mask_frac: share of the tokens hidden in one pass, rounded down to 1 / a whole number.
        mask_rounds: passes, each with other tokens hidden; by default as many as score every token.
        mask_seed: of the pattern.
    """

    kind = "masked_lm"

    def __init__(self, model: Any, tokenizer: Any, name: str, context_tokens: int | None = None, settings: TokenSettings | None = None,
                 mask_frac: float = 0.15, mask_rounds: int | None = None, mask_seed: int = 0):
        n_groups = math.ceil(1 / mask_frac)
        if mask_rounds is not None and mask_rounds > n_groups:
            raise SubjectError(asked=f"score {name} with subject.mask_rounds = {mask_rounds}",
                               why=f"with subject.mask_frac = {mask_frac} every token has been scored after {n_groups}",
                               instead=f"set it to {n_groups} or less")
        self.masking = Masking(n_groups=n_groups, rounds=mask_rounds or n_groups, seed=mask_seed)
        super().__init__(model, tokenizer, name, context_tokens, settings)

    @torch.no_grad()
    def loss(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, " token"]:
        """Cross entropy in nats of each scored token from what is left when it and its group are hidden; nan for tokens that are not scored.

        Pseudo-log-likelihood with several tokens masked at once (Salazar et al. 2020 mask one): the tokens of an example are divided
        into n_groups groups, each run of n_groups consecutive tokens giving one to each group in an order drawn from the seed. Round g
        replaces group g by the mask token and takes -log p(token | the rest) there. With the default number of rounds every token but
        specials and mask tokens of the text itself is scored once; with fewer rounds, the groups of those rounds.
        """
        result = torch.full((batch.n_tokens,), float("nan"), device=self.device)
        for one in self.scorings(batch):
            result[one.tokens.to(self.device)] = cross_entropy(self._logits(one.batch, edits, one.where, self._head), batch.token_id[one.tokens])
        return result

    def scorings(self, batch: Batch) -> Iterator[Scoring]:
        """One pass a round, with other tokens hidden in each."""
        where = batch.counts.nonzero()
        for number in range(self._masking.rounds):
            masked, hidden = self.masked_round(batch, number)
            if hidden.any():
                yield Scoring(masked, hidden.nonzero()[:, 0], where[hidden])

    def scored(self, batch: Batch) -> Bool[Tensor, " token"]:
        """Which counted tokens have a loss."""
        return (self._group(batch) < self._masking.rounds) & self._can_hide(batch)

    def masked_round(self, batch: Batch, number: int) -> tuple[Batch, Bool[Tensor, " token"]]:
        """The batch with one group of tokens replaced by the mask token, and which tokens those are."""
        hidden = (self._group(batch) == number) & self._can_hide(batch)
        rows, positions = batch.counts.nonzero()[hidden].unbind(1)
        input_ids = batch.input_ids.clone()
        input_ids[rows, positions] = self._mask_id
        return replace(batch, input_ids=input_ids), hidden

    @torch.no_grad()
    def predict(self, batch: Batch, edits: Mapping[str, EditFunction] | None = None) -> Float[Tensor, "token vocabulary"]:
        """Logits of the token at each counted position, from the text as it is; mask tokens in a text count and get theirs."""
        return self._logits(batch, edits, batch.counts.nonzero(), self._head).float()

    @property
    def _masking(self) -> Masking:
        assert self.masking is not None
        return self.masking

    def _prepare_model(self) -> None:
        self._head: Any = output_layer(self.model, self.name, "masked language model", "AutoModelForMaskedLM")
        mask_id = self._tokens.vocabulary.mask_id
        if mask_id is None:
            raise SubjectError(asked=f"study {self.name} as a masked language model", why="its tokenizer has no mask token",
                               instead="set subject.kind to 'causal_lm' or 'encoder'")
        self._mask_id = mask_id

    def _check_packing(self) -> None:
        raise SubjectError(asked=f"pack several examples into a row of {self.name} (subject.pack)", why="packing is for causal language models",
                           instead="set subject.pack = false; batches are made of examples of like length, so that little is padding")

    def _group(self, batch: Batch) -> Int[Tensor, " token"]:
        """Group of each token: by its position in its example alone, so that it does not depend on the batch."""
        n_groups = self._masking.n_groups
        n_blocks = int(batch.position.max()) // n_groups + 1 if batch.n_tokens else 0
        generator = torch.Generator().manual_seed(self._masking.seed)
        order = torch.rand(n_blocks, n_groups, generator=generator).argsort(1)  # drawn block by block: a longer text has the same beginning
        return order.flatten()[batch.position]

    def _can_hide(self, batch: Batch) -> Bool[Tensor, " token"]:
        blind = torch.tensor([*self._tokens.vocabulary.special_ids, self._mask_id])
        return ~torch.isin(batch.token_id, blind)
