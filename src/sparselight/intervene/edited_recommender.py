"""A recommender with edits built in: a module that is served in place of the original and takes the same inputs.

Owns: the wrapped module, edits for a segment of the rows, recommendations in bounded memory. Refuses: edits at other sites than the user vector.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sparselight.errors import ConfigError
from sparselight.intervene.edit import Dictionary, edit_function
from sparselight.records import Edit
from sparselight.subjects.recommender.module import Recommender
from sparselight.subjects.recommender.scoring import SeenItems, TopItems, top_items
from sparselight.subjects.recommender.subject import USER_VECTOR

BLOCK_ROWS = 1 << 14


class EditedRecommender(nn.Module):
    """A recommender with edits built in: give it in place of the original, it takes the same inputs.

    Args:
        module: the recommender.
        coder: the SAE of its user vectors; part of the state dict where it is a module.
        edits: applied one after the other.

    Raises:
        ConfigError: for an edit at another site than the user vector.
    """

    def __init__(self, module: Recommender, coder: Dictionary, edits: Sequence[Edit]):
        super().__init__()
        for edit in edits:
            if edit.site != USER_VECTOR:
                raise ConfigError(asked=f"export an edit at {edit.site!r}", why="the exported scorer edits the vector before the scoring product",
                                  instead=f"train an SAE at {USER_VECTOR!r}, or edit with hooks (subject.predict(batch, edits))")
        self.module, self.coder, self.edits = module, cast("nn.Module", coder), list(edits)
        self._functions = [edit_function(edit, coder) for edit in edits]

    @torch.no_grad()
    def vectors(
        self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"], edited: Bool[Tensor, " row"] | None = None,
    ) -> Float[Tensor, "row d"]:
        """User vectors after the edits.

        Args:
            edited: which rows the edits are for (a segment); all when left out.
        """
        original: Tensor = self.module(history, lengths, users)
        return self.edit(original) if edited is None else torch.where(edited[:, None], self.edit(original), original)

    def edit(self, vectors: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
        """The edits on user vectors that are already there."""
        for function in self._functions:
            vectors = function(vectors)
        return vectors

    def forward(
        self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"], edited: Bool[Tensor, " row"] | None = None,
    ) -> Float[Tensor, "row vocabulary"]:
        """Scores of all items; that of padding (0) means nothing."""
        return self.module.score(self.vectors(history, lengths, users, edited))

    def recommend(
        self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"], k: int = 10, seen: SeenItems | None = None,
        edited: Bool[Tensor, " row"] | None = None,
    ) -> TopItems:
        """The k best items of each row that its user does not have.

        A block of rows at a time: beyond the arguments and the lists, memory grows neither with the rows nor, where the score is a product, with the items.
        """
        found = []
        for start in range(0, max(len(lengths), 1), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            vectors = self.vectors(history[rows], lengths[rows], users[rows], None if edited is None else edited[rows])
            found.append(top_items(self.module, vectors, k, None if seen is None else seen[rows]))
        return TopItems(torch.cat([one.items for one in found]), torch.cat([one.scores for one in found]))
