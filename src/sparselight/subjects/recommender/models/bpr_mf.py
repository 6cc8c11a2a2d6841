"""BPR-MF (Rendle et al. 2009, arXiv 1205.2618): a vector a user, a vector an item. The studied vector is the user's own row."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.subjects.recommender.models.sasrec import small_normal
from sparselight.subjects.recommender.module import Recommender


class BprMf(Recommender):
    """Matrix factorization."""

    def __init__(self, n_users: int, n_items: int, d: int):
        super().__init__(n_items, d, "user")
        self.users, self.items = nn.Embedding(n_users, d), nn.Embedding(n_items + 1, d)
        self.apply(small_normal)

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:  # noqa: ARG002
        vectors: Tensor = self.users(users)
        return vectors

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        return self.items.weight
