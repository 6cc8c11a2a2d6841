"""TiMiRec (Wang et al. 2022, "Target Interest Distillation for Multi-Interest Recommendation", CIKM), as ReChorus configures it.

An extractor reads K interest vectors out of the history: a transformer layer without a causal mask, then additive attention. A predictor (a GRU with
item vectors of its own) says how likely each interest is the next one; the studied vector is the interests' mean under softmax of that. Training has two
stages: the extractor alone, each target scored by the interest nearest to it; then all, with the ranking loss plus
KL(softmax of the target's cosines with the interests || softmax of the predicted intents).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize
from torch.nn.utils.rnn import pack_padded_sequence

from sparselight.subjects.recommender.models.sasrec import Block, from_latest, small_normal
from sparselight.subjects.recommender.module import Recommender


class TiMiRec(Recommender):
    """Several interests of a user, and which one comes next."""

    def __init__(self, n_items: int, d: int, n_interests: int, d_attention: int, max_history: int):
        super().__init__(n_items, d, "history", max_history)
        self.items, self.positions = nn.Embedding(n_items + 1, d), nn.Embedding(max_history + 1, d)
        self.block = Block(d, 1)
        self.attention1, self.attention2 = nn.Linear(d, d_attention), nn.Linear(d_attention, n_interests)
        self.predictor_items, self.predictor, self.intent = nn.Embedding(n_items + 1, d), nn.GRU(d, d, batch_first=True), nn.Linear(d, n_interests)
        self.apply(small_normal)

    def interests(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"]) -> Float[Tensor, "row interest d"]:
        """K weighted means over the positions of the history."""
        valid = history > 0
        x = self.items(history) + self.positions(from_latest(history, lengths))
        x = self.block(x, valid[:, None, None, :])
        attention = self.attention2(self.attention1(x).tanh()).masked_fill(~valid[..., None], -torch.inf).softmax(1)
        return attention.transpose(1, 2) @ x.masked_fill(~valid[..., None], 0)

    def intents(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"]) -> Float[Tensor, "row interest"]:
        """Logits of which interest comes next."""
        packed = pack_padded_sequence(self.predictor_items(history), lengths.cpu(), batch_first=True, enforce_sorted=False)
        logits: Tensor = self.intent(self.predictor(packed)[1][-1])
        return logits

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:  # noqa: ARG002
        weights = self.intents(history, lengths).softmax(-1)
        return (self.interests(history, lengths) * weights[..., None]).sum(1)

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        return self.items.weight

    def extractor_vectors(
        self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], targets: Int[Tensor, " row"],
    ) -> Float[Tensor, "row d"]:
        """First stage: the interest whose product with the target's vector is the largest."""
        interests = self.interests(history, lengths)
        nearest = (interests @ self.items(targets)[..., None])[..., 0].argmax(1)
        return interests[torch.arange(len(interests), device=interests.device), nearest]

    def distillation(
        self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], targets: Int[Tensor, " row"],
    ) -> tuple[Float[Tensor, "row d"], Float[Tensor, ""]]:
        """Second stage: the user vectors, and KL(target || predicted intents), mean over rows; the target's side is held constant."""
        interests, logits = self.interests(history, lengths), self.intents(history, lengths)
        target = (normalize(interests, dim=-1) * normalize(self.items(targets), dim=-1)[:, None]).sum(-1).detach().softmax(-1)
        vectors = (interests * logits.softmax(-1)[..., None]).sum(1)
        return self.user_vector(vectors), kl_div(logits.log_softmax(-1), target, reduction="batchmean")
