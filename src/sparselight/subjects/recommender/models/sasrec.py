"""SASRec (Kang and McAuley 2018, arXiv 1808.09781) as ReChorus builds it: post-norm blocks, positions counted from the latest interaction.

A block is LN(x + attention(x)), then LN(. + down(relu(up(.)))), with as many hidden units as dimensions and no projection after the heads. The vector is the
state at the last interaction. Because positions count from the end, the state in the middle of a history is not that of its prefix: the subject
runs every prefix as a row of its own.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sparselight.subjects.recommender.module import Recommender

INIT_STD = 0.01


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each followed by a norm of the sum."""

    def __init__(self, d: int, n_heads: int, dropout: float = 0.0):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value = (nn.Linear(d, d) for _ in range(3))
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.up, self.down = nn.Linear(d, d), nn.Linear(d, d)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "row position d"], sees: Bool[Tensor, "... asked position"], asked: Float[Tensor, "row asked d"] | None = None,
    ) -> Float[Tensor, "row asked d"]:
        """What the block gives at some positions.

        Args:
            sees: which positions each of them sees.
            asked: the positions' vectors; all positions when left out.
        """
        asked = x if asked is None else asked
        query, key, value = (part(source).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
                             for part, source in ((self.query, asked), (self.key, x), (self.value, x)))
        attended = scaled_dot_product_attention(query, key, value, attn_mask=sees).transpose(1, 2).flatten(2)
        asked = self.norm1(asked + self.dropout(attended))
        result: Tensor = self.norm2(asked + self.dropout(self.down(self.up(asked).relu())))
        return result


class SasRec(Recommender):
    """A causal transformer over the history."""

    def __init__(self, n_items: int, d: int, n_layers: int, n_heads: int, max_history: int, dropout: float = 0.0):
        super().__init__(n_items, d, "history", max_history)
        self.items, self.positions = nn.Embedding(n_items + 1, d), nn.Embedding(max_history + 1, d)
        self.blocks = nn.ModuleList(Block(d, n_heads, dropout) for _ in range(n_layers))
        self.apply(small_normal)

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:  # noqa: ARG002
        x = self.items(history) + self.positions(from_latest(history, lengths))
        sees = torch.ones(history.shape[1], history.shape[1], dtype=torch.bool, device=x.device).tril()
        last = lengths - 1
        rows = torch.arange(len(x), device=x.device)
        for number, block in enumerate(self.blocks, 1):
            if self.training and number == len(self.blocks):  # only the last state is trained: a third of the work
                return block(x, (history > 0)[:, None, None, :], x[rows, last][:, None])[:, 0]
            x = block(x, sees)
        return x[rows, last]

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        return self.items.weight


def from_latest(history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"]) -> Int[Tensor, "row position"]:
    """1 at the latest interaction, 2 before it, ...; 0 at padding."""
    return (lengths[:, None] - torch.arange(history.shape[1], device=history.device)) * (history > 0)


def small_normal(module: nn.Module) -> None:
    """First weights as ReChorus draws them: normal with a deviation of 0.01, biases too."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=INIT_STD)
