"""The SAE: parameters, inference, and the scaling folded into the weights.

x is a row of activations [d_in], z its latents, x_hat what it gives back [d_out] (another site's activations for a transcoder):
    pre = (x - b_dec) @ W_enc + b_enc      (x itself where subtract_b_dec is off)
    z = relu(pre) * (pre > threshold)      or, where `k` is set, relu(pre) at the k largest pre of the token and 0 elsewhere
    x_hat = z @ W_dec + b_dec              (+ x @ W_skip for a transcoder with a skip connection)
Inference runs without autograd and returns sparse codes. Training-time forward passes stand one a file beside this one.
"""

import hashlib
import html
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparselight.errors import SaeError
from sparselight.kernels import Selected, Selection, kernels
from sparselight.protocols import Codes
from sparselight.records import SaeRecord
from sparselight.sae.affine import Affine
from sparselight.sae.import_notes import ImportNotes

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")  # what defines an SAE's function, beside subtract_b_dec, W_skip, and k in place of threshold


class KernelCache(dict[str, Any]):
    """What the kernels remember of one SAE's weights; a copy of the SAE begins with an empty one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "KernelCache":
        return KernelCache()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return KernelCache, ()


class Sae(nn.Module):
    """A dictionary: encoder, decoder, thresholds. `record` says where it came from, when that is known."""

    threshold: Float[Tensor, " latent"]

    def __init__(self, d_in: int, n_latents: int, subtract_b_dec: bool = True, *, d_out: int | None = None, k: int | None = None, skip: bool = False):
        super().__init__()
        self.d_in, self.n_latents, self.subtract_b_dec = d_in, n_latents, subtract_b_dec
        self.d_out = d_in if d_out is None else d_out
        self.k = k
        """Latents that a token keeps at inference; None for an SAE with thresholds."""
        self.product_dtype: torch.dtype | None = None
        """Precision of the encoder's product while training; None for that of the weights, which inference always has."""
        self.record: SaeRecord | None = None
        self.imported: ImportNotes | None = None
        """Where it was read from and by which conventions, for one that others made."""
        self.cache = KernelCache()
        # Stored latent by latent, as sparse gradients come; the shape is [d_in, latent] all the same.
        self.W_enc = nn.Parameter(torch.zeros(n_latents, d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(torch.zeros(n_latents, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out)) if skip else None
        self.register_buffer("threshold", torch.zeros(n_latents))
        if subtract_b_dec and (self.d_out != d_in or skip):
            why = "its skip connection reads the whole input" if skip else f"it gives back {self.d_out}, and so has b_dec"
            raise SaeError(asked=f"make an SAE that reads {d_in} dimensions and subtracts b_dec from them", why=why,
                           instead="set subtract_b_dec=False for a transcoder")
        if k is not None and not 1 <= k <= n_latents:
            raise SaeError(asked=f"make an SAE that keeps k = {k} latents a token", why=f"it has {n_latents}", instead=f"give k from 1 to {n_latents}")

    @property
    def is_transcoder(self) -> bool:
        """Whether it gives back other activations than it reads, as far as its shape, its record and the files that it was read from tell."""
        said = (self.record is not None and self.record.target_site is not None) or (self.imported is not None and self.imported.is_transcoder)
        return self.d_out != self.d_in or self.W_skip is not None or said

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        """Sparse latent activations.

        Raises:
            SaeError: when x has another width than the dictionary.
        """
        self.check_width(x)
        selection, values = self._select(self.encoder_input(x))
        assert isinstance(selection, Selection)
        return Codes(values, selection.latents.long(), selection.indptr, self.n_latents)

    def _select(self, rows: Float[Tensor, "token d_in"]) -> Selected:
        ops = kernels(rows)
        if self.k is not None:
            return ops.encode_topk(rows, self.W_enc.detach(), self.b_enc.detach(), self.k, self.cache)
        return ops.encode_above(rows, self.W_enc.detach(), self.b_enc.detach(), self.threshold.clamp(min=0), self.cache)

    @torch.no_grad()
    def decode(self, codes: Codes, x: Float[Tensor, "token d_in"] | None = None) -> Float[Tensor, "token d_out"]:
        """What the codes stand for.

        Args:
            x: what was encoded; needed by a transcoder with a skip connection.

        Raises:
            SaeError: when such a transcoder is not given x.
        """
        selection = Selection(codes.latents.int(), codes.indptr, codes.n_latents)
        x_hat = kernels(codes.values).decode(codes.values, selection, self.W_dec.detach(), (self.n_latents,))[0] + self.b_dec
        if self.W_skip is None:
            return x_hat
        if x is None:
            raise SaeError(asked="decode codes with a skip transcoder", why="its skip connection needs what was encoded", instead="call decode(codes, x)")
        return x_hat + x @ self.W_skip

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_out"]:
        return self.decode(self.encode(x), x)

    def pre_activations(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token latent"]:
        """The encoder's whole product, before any selection."""
        return torch.addmm(self.b_enc, self.encoder_input(x), self.W_enc)

    def encoder_input(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x - self.b_dec if self.subtract_b_dec else x

    def check_width(self, x: Float[Tensor, "token d_in"]) -> None:
        """Refuse activations of another width.

        Raises:
            SaeError: naming both widths.
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise SaeError(asked=f"encode activations of shape {list(x.shape)}", why=f"this SAE reads rows of width d_in = {self.d_in}",
                           instead="give activations of the site that it was trained at, shape [token, d_in]")

    @torch.no_grad()
    def fold(self, into: Affine, out_of: Affine) -> Self:
        """Make an SAE that was trained on mapped rows work on raw ones; decoder rows keep, or get, unit norm.

        As `absorb`. Where B is no single number rows of D change their norms n: they are divided by them, and W, b_enc, threshold multiplied, so
        that a latent's activation is measured in units of its direction's length among raw rows. An SAE that keeps the k largest then stays in
        the units of training, decoder rows not of unit norm, because other latents would be the largest.
        """
        return self.absorb(into, out_of).normalize_decoder()

    @torch.no_grad()
    def absorb(self, into: Affine, out_of: Affine) -> Self:
        """Make an SAE that was trained on mapped rows work on raw ones; the latents of x are those that into(x) had.

        Training saw into(x) = (x - mu) @ A and aimed at out_of(target) = (target - nu) @ B, so with W = W_enc, D = W_dec and S = W_skip:
            W <- A @ W      D <- D @ B^-1      S <- A @ S @ B^-1      b_dec <- b_dec @ B^-1 + nu - mu @ S
            b_enc <- b_enc - mu @ W        (and where b_dec is subtracted, its old part is taken out and its new one put in)
        """
        old = self.b_dec @ self.W_enc if self.subtract_b_dec else 0.0
        self.W_enc.copy_(into.linear_of(self.W_enc))
        self.W_dec.copy_(out_of.undo_linear(self.W_dec))
        self.b_dec.copy_(out_of.undo_linear(self.b_dec) + (0 if out_of.mean is None else out_of.mean))
        self.b_enc.sub_(old + (0.0 if into.mean is None else into.mean @ self.W_enc))
        if self.subtract_b_dec:
            self.b_enc.add_(self.b_dec @ self.W_enc)
        if self.W_skip is not None:
            self.W_skip.copy_(out_of.undo_linear(into.linear_of(self.W_skip)))
            if into.mean is not None:
                self.b_dec.sub_(into.mean @ self.W_skip)
        return self

    @torch.no_grad()
    def normalize_decoder(self) -> Self:
        """Give decoder rows unit norm by measuring each latent in units of its row's norm; what is reconstructed stays the same.

        An SAE that keeps the k largest is left as it is where the norms differ: the k largest would be others.
        """
        norms = torch.linalg.vector_norm(self.W_dec, dim=1)
        norms = torch.where(norms > 0, norms, 1)
        if self.k is not None:
            if not torch.allclose(norms, norms[0], rtol=1e-5):
                return self
            norms = norms.mean().expand_as(norms)  # one unit for all: not even rounding changes their order
        self.W_dec.div_(norms.unsqueeze(1))
        self.W_enc.mul_(norms)
        self.b_enc.mul_(norms)
        self.threshold.mul_(norms)
        return self

    @torch.no_grad()
    def fold_centering(self) -> Self:
        """Move the subtraction of b_dec into b_enc; the function stays the same."""
        if self.subtract_b_dec:
            self.b_enc.sub_(self.b_dec @ self.W_enc)
            self.subtract_b_dec = False
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Contiguous copies or views of all that defines the function, by name."""
        unused = {name for name, there in (("threshold", self.k is None), ("W_skip", self.W_skip is not None)) if not there}
        return {name: getattr(self, name).detach().contiguous() for name in (*TENSORS, "W_skip") if name not in unused}

    def weights_hash(self) -> str:
        """SHA-256 over all that defines the function: equal hashes, equal outputs."""
        digest = hashlib.sha256((f"subtract_b_dec={self.subtract_b_dec}" + ("" if self.k is None else f" k={self.k}")).encode())
        for name, tensor in self.tensors().items():
            digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Sae({', '.join(f'{name} {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        facts = self._facts() | (self.imported.conventions if self.imported is not None else {})
        cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts.items())
        return f"<table><caption>SAE</caption>{cells}</table>"

    def _facts(self) -> dict[str, str]:
        facts = {"d_in": str(self.d_in), "n_latents": str(self.n_latents)}
        if self.d_out != self.d_in:
            facts["d_out"] = str(self.d_out)
        if self.record is not None:
            record = self.record
            facts |= {} if record.target_site is None else {"target": record.target_site}
            facts |= {"role": record.role, "architecture": record.architecture, "site": record.site, "subject": record.subject.name,
                      "l0": f"{record.l0:.1f}", "dead": str(record.n_dead), "trained on": f"{record.n_tokens_seen:,} tokens"}
        if self.imported is not None:
            facts |= {"read as": self.imported.read_as, "source": self.imported.source}
        return facts
