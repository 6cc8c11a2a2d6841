"""What a recommender's module promises: a vector a row, and the vectors of all items that it is multiplied with.

Rows are users: their history (item ids from 1, filled up with 0 on the right), its length, and the user's number. Owns: the base class, and the wrapper
for any other PyTorch module. Refuses: the item vectors of a model whose score is no product with them.
"""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.errors import SubjectError

Reads = Literal["history", "user"]


class Recommender(nn.Module):
    """Base of all recommenders: subclasses give `represent` and `item_vectors`.

    Args:
        n_items: items that it knows; their ids are 1 to n_items, 0 is padding.
        d: width of its vectors.
        reads: what the vector depends on: the history, or the user alone.
        max_history: interactions that it sees at once.
    """

    def __init__(self, n_items: int, d: int, reads: Reads = "history", max_history: int = 1):
        super().__init__()
        self.n_items, self.d, self.max_history = n_items, d, max_history
        self.reads: Reads = reads
        self.user_vector = nn.Identity()  # the representation before the scoring product passes through it, so that hooks can read and change it

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
        """The vector that the items' vectors are multiplied with."""
        raise NotImplementedError

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        """Vectors of padding (row 0, never scored) and all items."""
        raise NotImplementedError

    def item_bias(self) -> Float[Tensor, " vocabulary"] | None:
        """What is added to each item's score whoever the user is."""
        return None

    @property
    def is_product(self) -> bool:
        """Whether the scores are the products with `item_vectors` (and `item_bias`), so that they can be taken a block of items at a time."""
        return True

    def forward(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
        vector: Tensor = self.user_vector(self.represent(history, lengths, users))
        return vector

    def score(self, vectors: Float[Tensor, "row d"]) -> Float[Tensor, "row vocabulary"]:
        """Scores of all items, <vector, item vector> + bias; the entry of padding means nothing."""
        scores, bias = vectors @ self.item_vectors().T, self.item_bias()
        return scores if bias is None else scores + bias


Represent = Callable[[Int[Tensor, "row position"], Int[Tensor, " row"], Int[Tensor, " row"]], Float[Tensor, "row d"]]


class PlainRecommender(Recommender):
    """Any PyTorch module as a recommender.

    Args:
        module: holds the weights; its submodules are sites by their path, `module.PATH:output`.
        represent: (history, lengths, users) to vectors [row, d]: the representation that is studied.
        item_vectors: [n_items + 1, d], row 0 for padding: the scores are the products with it. None where the score is something else.
        score: vectors [row, d] to scores [row, n_items + 1], where the score is no product; an edit of the vector then acts through it.
        item_bias: [n_items + 1].

    Raises:
        SubjectError: when neither item_vectors nor score is given, or both.
    """

    def __init__(
        self, module: nn.Module, represent: Represent, n_items: int, d: int, item_vectors: Callable[[], Tensor] | Tensor | None = None,
        score: Callable[[Tensor], Tensor] | None = None, item_bias: Tensor | None = None, reads: Reads = "history", max_history: int = 50,
    ):
        super().__init__(n_items, d, reads, max_history)
        if (item_vectors is None) == (score is None):
            raise SubjectError(asked="wrap a module as a recommender", why="it needs either item_vectors or score",
                               instead="give item_vectors where scores are products with them, and score where they are not")
        self.module = module
        self._represent, self._item_vectors, self._score, self._bias = represent, item_vectors, score, item_bias

    @property
    def is_product(self) -> bool:
        return self._score is None

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
        return self._represent(history, lengths, users)

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        if self._item_vectors is None:
            raise SubjectError(asked="read the item vectors of this recommender", why="its score is not a product with vectors of the items",
                               instead="use what needs scores only (predict, loss, ranking), or wrap a model with item_vectors")
        return self._item_vectors if isinstance(self._item_vectors, Tensor) else self._item_vectors()

    def item_bias(self) -> Float[Tensor, " vocabulary"] | None:
        return self._bias

    def score(self, vectors: Float[Tensor, "row d"]) -> Float[Tensor, "row vocabulary"]:
        return super().score(vectors) if self._score is None else self._score(vectors)


