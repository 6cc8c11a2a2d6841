"""Two SAEs on the same vectors, side by side: the largest differences, and whether the same latents fire.

Owns: vectors that make latents fire at all, the comparison, and calling the library that a format belongs to where it is importable. It
reports and judges nothing; what counts as equal is the caller's to say (TOLERANCE is what the tests take).
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparselight.records import Part
from sparselight.sae.base import Sae
from sparselight.sae.formats.place import Place

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value, that counts as rounding in float32."""
N_RANDOM, NEAR = 512, 1e-4
MAX_ENTRIES = 2**24


class Difference(Part):
    """What comparing two coders found; differences are largest absolute ones."""

    of: str
    n_tokens: int
    n_active: int
    """Latents that fire on these vectors in the first, over all tokens."""
    latents: float
    reconstruction: float
    largest_latent: float
    largest_value: float
    support_differs: int
    """Entries that are above 0 in one and not in the other."""
    decided_by_rounding: int
    """Of those, entries whose activation is so small, or pre-activation so near its threshold, that the order of a sum decides."""

    @property
    def equal(self) -> bool:
        """Equal but for rounding."""
        return (self.latents <= TOLERANCE * max(1.0, self.largest_latent) and self.reconstruction <= TOLERANCE * max(1.0, self.largest_value)
                and self.support_differs == self.decided_by_rounding)

    def line(self) -> str:
        support = "same latents fire" if not self.support_differs else f"{self.support_differs} of {self.n_active} firings differ"
        return (f"{self.of}: largest difference {self.latents:.2g} in latents (of {self.largest_latent:.4g}), {self.reconstruction:.2g} in reconstructions "
                f"(of {self.largest_value:.4g}); {support}; {self.n_tokens} vectors, {self.n_active} firings")


@torch.no_grad()
def probe_vectors(sae: Sae, seed: int = 0, n: int = N_RANDOM) -> Float[Tensor, "token d_in"]:
    """Vectors on which latents fire: sums of a few encoder directions of random strength about b_dec, with noise of several sizes.

    There are fewer of them for a wide dictionary, so that its dense latents stay below 64 MB.
    """
    n = max(16, min(n, MAX_ENTRIES // sae.n_latents))
    generator = torch.Generator().manual_seed(seed)
    directions = sae.W_enc.T.float().cpu()
    directions = directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-12)
    chosen = torch.randint(0, sae.n_latents, (n, 4), generator=generator)
    strength = torch.rand(n, 4, 1, generator=generator) * 4 * max(1.0, float(sae.threshold.abs().max()))
    center = sae.b_dec.float().cpu() if sae.subtract_b_dec else torch.zeros(sae.d_in)
    noise = torch.randn(n, sae.d_in, generator=generator) * torch.tensor([0.1, 1.0, 10.0])[torch.randint(0, 3, (n, 1), generator=generator)]
    return center + (directions[chosen] * strength).sum(1) + noise


@torch.no_grad()
def compare(
    of: str, sae: Sae, latents: Float[Tensor, "token latent"], x_hat: Float[Tensor, "token d_out"], x: Float[Tensor, "token d_in"],
) -> Difference:
    """An SAE on x beside latents and reconstructions that something else computed."""
    ours = sae.encode(x)
    dense = ours.to_dense()
    differs = (dense > 0) != (latents > 0)
    pre = sae.pre_activations(x)
    scale = max(1.0, float(pre.abs().max()))
    edge = cutoff(sae, pre)
    near = (pre - edge).abs() < NEAR * scale
    return Difference(
        of=of, n_tokens=len(x), n_active=len(ours.values), latents=float(torch.where(differs & near, 0, dense - latents).abs().max()),
        reconstruction=float(without(sae, ours, x, (differs & near).any(1), x_hat)), largest_latent=float(dense.max()), largest_value=float(x_hat.abs().max()),
        support_differs=int(differs.sum()), decided_by_rounding=int((differs & near).sum()))


def cutoff(sae: Sae, pre: Float[Tensor, "token latent"]) -> Tensor:
    """What a pre-activation must exceed."""
    if sae.k is None:
        return sae.threshold.clamp(min=0)
    return pre.topk(sae.k, dim=1).values[:, -1:].clamp(min=0)


def without(sae: Sae, codes: Any, x: Tensor, left_out: Tensor, x_hat: Tensor) -> float:
    """The largest difference of reconstructions over the tokens that no rounding decided."""
    difference = (sae.decode(codes, x) - x_hat).abs().max(1).values
    return float(torch.where(left_out, 0, difference).max())


def compare_saes(of: str, first: Sae, second: Sae, x: Float[Tensor, "token d_in"]) -> Difference:
    codes = second.encode(x)
    return compare(of, first, codes.to_dense(), second.decode(codes, x), x)


# Each loads a folder with the library whose format it is; returns latents and reconstructions.
Runner = Callable[[Path, Tensor], tuple[Tensor, Tensor]]


def run_saelens(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    import sae_lens

    sae = sae_lens.SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)


def run_sparsify(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    import sparsify

    coder = sparsify.SparseCoder.load_from_disk(folder)
    top, indices, _ = coder.encode(x)
    x_hat = coder.decode(top, indices)  # with multi_topk its forward() would give that of 4 k latents
    return torch.zeros(len(x), coder.num_latents).scatter(1, indices, top), x_hat if coder.W_skip is None else x_hat + x @ coder.W_skip.mT


def run_dictionary_learning(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    import dictionary_learning.dictionary as plain
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    kind = Place(folder).json("config.json")["trainer"]["dict_class"]
    cls = next(getattr(module, kind) for module in (plain, top_k, batch_top_k, matryoshka_batch_top_k) if hasattr(module, kind))
    coder = cls.from_pretrained(str(folder / "ae.pt"))
    latents = coder.encode(x)
    return latents, coder.decode(latents)


LIBRARIES: dict[str, tuple[str, Runner]] = {
    "saelens": ("sae_lens", run_saelens), "sparsify": ("sparsify", run_sparsify), "dictionary_learning": ("dictionary_learning", run_dictionary_learning),
}


@torch.no_grad()
def compare_with_library(form: str, sae: Sae, folder: Path, x: Float[Tensor, "token d_in"]) -> Difference | None:
    """The SAE beside the library of a format on a folder; None where that library is not installed here."""
    if form not in LIBRARIES or importlib.util.find_spec(LIBRARIES[form][0]) is None:
        return None
    name, run = LIBRARIES[form]
    latents, x_hat = run(folder, x)
    return compare(f"{name} on {folder}", sae, latents.float(), x_hat.float(), x)
