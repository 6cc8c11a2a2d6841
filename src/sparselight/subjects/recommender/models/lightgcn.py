"""LightGCN (He et al. 2020, arXiv 2002.02126): user and item vectors averaged over steps of propagation on the graph of training interactions.

    E_(l+1) = D^(-1/2) A D^(-1/2) E_l      E = mean of E_0 .. E_L

The graph is part of the saved state. The studied vector is the user's after propagation, which is what RecSAE's file names suggest.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.subjects.recommender.module import Recommender


class LightGcn(Recommender):
    """Graph convolution without transforms; rows of padding and of users and items without an interaction stay as they are but for the mean."""

    edges: Tensor
    weights: Tensor

    def __init__(self, n_users: int, n_items: int, d: int, n_layers: int, edges: Int[np.ndarray, "2 edge"]):
        super().__init__(n_items, d, "user")
        self.n_users, self.n_layers = n_users, n_layers
        self.users, self.items = nn.Embedding(n_users, d), nn.Embedding(n_items + 1, d)
        nn.init.xavier_uniform_(self.users.weight)
        nn.init.xavier_uniform_(self.items.weight)
        user, item = np.unique(edges, axis=1)
        degree_user, degree_item = (np.bincount(part, minlength=size) for part, size in ((user, n_users), (item, n_items + 1)))
        self.register_buffer("edges", torch.from_numpy(np.stack([user, item])))
        self.register_buffer("weights", torch.from_numpy(1 / np.sqrt(degree_user[user] * degree_item[item])).float())

    def propagate(self) -> Float[Tensor, "node d"]:
        """Vectors of all users, then of padding and all items."""
        step = torch.cat([self.users.weight, self.items.weight])
        user, item = self.edges[0], self.edges[1] + self.n_users
        graph = torch.sparse_coo_tensor(torch.stack([torch.cat([user, item]), torch.cat([item, user])]), self.weights.repeat(2),
                                        (len(step), len(step)), check_invariants=False).coalesce()
        total = step
        for _ in range(self.n_layers):
            step = torch.sparse.mm(graph, step)
            total = total + step
        return total / (self.n_layers + 1)

    def represent(self, history: Int[Tensor, "row position"], lengths: Int[Tensor, " row"], users: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:  # noqa: ARG002
        return self.propagate()[users]

    def item_vectors(self) -> Float[Tensor, "vocabulary d"]:
        return self.propagate()[self.n_users:]
