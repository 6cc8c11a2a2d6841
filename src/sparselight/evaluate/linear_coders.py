"""Linear dictionaries that stand beside a trained one: principal components, independent components, the activations' own channels.

Each component is split by sign into two latents, so that codes are sparse and not negative as an SAE's are: latent j is component j where it is
positive, latent n + j where it is negative. Decoder rows have unit length. With `keep` only the largest components of each token remain, which gives
the sparsity of an SAE; without it all do, which gives a code of that rank. Refuses: fitting on activations of another width, on too few
of them, more components than there are dimensions, and independent components in very many dimensions.
"""

import warnings
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from sparselight.errors import SaeError
from sparselight.protocols import Codes

CHUNK_TOKENS = 1024
ICA_MOST_DIMS = 1024  # an iteration costs tokens * d_in^2; wider ones take many minutes
ICA_ROWS_PER_DIM, ICA_FEWEST_ROWS, ICA_MOST_ROWS = 16, 4096, 16_384
ICA_ITERATIONS = 200


@dataclass(frozen=True, slots=True)
class LinearCoder:
    """y = (x - mean) @ A, of which the `keep` largest |y_j| remain; x_hat = mean + y @ S."""

    mean: Float[Tensor, " d_in"]
    analysis: Float[Tensor, "d_in component"]
    """A"""
    synthesis: Float[Tensor, "component d_in"]
    """S, rows of unit length."""
    keep: int | None = None
    """Components that a token keeps; None for all."""
    note: str = ""
    """What a reader must know of the fit; empty where nothing."""

    @property
    def d_in(self) -> int:
        return len(self.mean)

    @property
    def n_latents(self) -> int:
        return 2 * len(self.synthesis)

    @property
    def W_enc(self) -> Float[Tensor, "d_in latent"]:  # noqa: N802 (the name that SAEs have it under)
        return torch.cat([self.analysis, -self.analysis], 1)

    @property
    def W_dec(self) -> Float[Tensor, "latent d_in"]:  # noqa: N802
        return torch.cat([self.synthesis, -self.synthesis])

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        return self.mean

    def keeping(self, keep: int) -> "LinearCoder":
        """The same components, of which a token keeps the largest."""
        return replace(self, keep=keep)

    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        """Sizes of the components that remain, split by sign."""
        if x.shape[1] != self.d_in:
            raise SaeError(asked=f"encode activations of shape {list(x.shape)}", why=f"this coder reads rows of width d_in = {self.d_in}",
                           instead="give activations of the site that it was fitted at")
        y, n = (x - self.mean.to(x)) @ self.analysis.to(x), len(self.synthesis)
        chosen = torch.arange(n, device=x.device).expand(len(x), n) if self.keep is None or self.keep >= n else y.abs().topk(self.keep, dim=1).indices
        y = y.gather(1, chosen)
        latents, order = (chosen + n * (y < 0)).sort(1)
        values = y.abs().gather(1, order)
        there = values > 0
        indptr = torch.cat([torch.zeros(1, dtype=torch.int64, device=x.device), there.sum(1).cumsum(0)])
        return Codes(values[there], latents[there], indptr, 2 * n)

    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        """What the codes stand for."""
        values, mean = codes.values, self.mean.to(codes.values)
        if self.keep is None:  # most components of a token are there
            n = len(self.synthesis)
            y = values.new_zeros(codes.n_tokens, n).index_put((codes.tokens(), codes.latents % n), torch.where(codes.latents < n, values, -values))
            return mean + y @ self.synthesis.to(values)
        return mean + embedding_bag(codes.latents, self.W_dec.to(values), codes.indptr[:-1], mode="sum", per_sample_weights=values)

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))


def pca(x: Float[Tensor, "token d_in"], n_components: int) -> LinearCoder:
    """Fit PCA by the eigenvectors of the covariance of `x` in float64: the best linear code of that many dense numbers a token.

    Args:
        n_components: 0 (the mean alone) to d_in.

    Raises:
        SaeError: when there are not that many dimensions, or fewer than two tokens.
    """
    n, d_in = x.shape
    _check(x, n_components, "PCA")
    mean = x.mean(0, dtype=torch.float64)
    covariance = torch.zeros(d_in, d_in, dtype=torch.float64, device=x.device)
    for chunk in x.split(CHUNK_TOKENS):
        centered = chunk.double() - mean
        covariance.addmm_(centered.T, centered)
    components = torch.linalg.eigh(covariance / (n - 1)).eigenvectors.flip(1)[:, :n_components].float().contiguous()
    return LinearCoder(mean.float(), components, components.T.contiguous())


def first_components(coder: LinearCoder, n_components: int) -> LinearCoder:
    """The same PCA with its first components alone."""
    return replace(coder, analysis=coder.analysis[:, :n_components].contiguous(), synthesis=coder.synthesis[:n_components].contiguous())


def ica(x: Float[Tensor, "token d_in"], n_components: int, seed: int = 0) -> LinearCoder:
    """Fit independent components by FastICA (Hyvarinen and Oja 2000; scikit-learn, logcosh, parallel) on evenly spaced rows of `x`.

    Where it does not converge, its last iterate is used and the coder's `note` says so.

    Raises:
        SaeError: when there are not that many dimensions, too many of them for the time it takes, or too few tokens.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    n, d_in = x.shape
    _check(x, n_components, "ICA")
    if d_in > ICA_MOST_DIMS:
        raise SaeError(asked=f"fit ICA on activations of width {d_in}", why=f"it takes many minutes above {ICA_MOST_DIMS} dimensions",
                       instead="leave it out of the controls")
    n_rows = min(n, max(ICA_FEWEST_ROWS, min(ICA_ROWS_PER_DIM * d_in, ICA_MOST_ROWS)))
    rows = x[torch.linspace(0, n - 1, n_rows, dtype=torch.float64).round().long()].double().cpu().numpy()
    model = FastICA(n_components, whiten="unit-variance", random_state=seed, max_iter=ICA_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(rows)
    note = ""
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        note = f"ICA with {n_components} components did not converge in {ICA_ITERATIONS} iterations on {n_rows} tokens; its last iterate is used"
    as_tensor = partial(torch.as_tensor, dtype=torch.float32)
    analysis, synthesis, mean = (as_tensor(part) for part in (model.components_.T.copy(), model.mixing_.T.copy(), model.mean_))
    lengths = synthesis.norm(dim=1)
    return LinearCoder(mean, analysis * lengths, synthesis / lengths[:, None], note=note)


def raw_channels(x: Float[Tensor, "token d_in"]) -> LinearCoder:
    """The activations' own coordinates about their mean, as latents: what the model's basis gives without any dictionary."""
    identity = torch.eye(x.shape[1])
    return LinearCoder(x.mean(0, dtype=torch.float64).float(), identity, identity)


def _check(x: Float[Tensor, "token d_in"], n_components: int, method: str) -> None:
    n, d_in = x.shape
    asked, least = f"fit {method} with {n_components} components on {n} activations of width {d_in}", 0 if method == "PCA" else 1
    if not least <= n_components <= d_in:
        raise SaeError(asked=asked, why=f"there are {d_in} dimensions", instead=f"ask for {least} to {d_in} components")
    if n < 2:
        raise SaeError(asked=asked, why="a covariance needs two tokens or more", instead="give more training activations")
