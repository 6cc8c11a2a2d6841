"""The SAE: parameters, inference with a threshold, and the scaling folded into the weights.

x is a row of activations [d_in], z its latents. Every architecture ends in this inference form, JumpReLU with one threshold a latent:
    pre = (x - b_dec) @ W_enc + b_enc      (x itself where subtract_b_dec is off)
    z = relu(pre) * (pre > threshold)      x_hat = z @ W_dec + b_dec
Inference runs without autograd and returns sparse codes. Training-time forward passes stand one a file beside this one.
"""

import hashlib
import html
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparselight.errors import SaeError
from sparselight.kernels import Selection, kernels
from sparselight.protocols import Codes
from sparselight.records import SaeRecord

CHUNK_ENTRIES = 1 << 23  # of the [token latent] matrix held at once while encoding
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")  # what defines an SAE's function, beside subtract_b_dec


class Sae(nn.Module):
    """A dictionary: encoder, decoder, thresholds. `record` says where it came from, when that is known."""

    threshold: Float[Tensor, " latent"]

    def __init__(self, d_in: int, n_latents: int, subtract_b_dec: bool = True):
        super().__init__()
        self.d_in, self.n_latents, self.subtract_b_dec = d_in, n_latents, subtract_b_dec
        self.record: SaeRecord | None = None
        # Stored latent by latent, as sparse gradients come; the shape is [d_in, latent] all the same.
        self.W_enc = nn.Parameter(torch.zeros(n_latents, d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(torch.zeros(n_latents, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("threshold", torch.zeros(n_latents))

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "token d_in"]) -> Codes:
        """Sparse latent activations.

        Raises:
            SaeError: when x has another width than the dictionary.
        """
        self.check_width(x)
        parts = [kernels().select_above(self.pre_activations(rows), self.threshold) for rows in x.split(max(1, CHUNK_ENTRIES // self.n_latents))]
        ends = torch.cumsum(torch.tensor([0, *(len(part.values) for part in parts)]), 0).to(self.threshold.device)
        indptr = torch.cat([ends[:1], *(part.selection.indptr[1:] + end for part, end in zip(parts, ends, strict=False))])
        return Codes(torch.cat([part.values for part in parts]), torch.cat([part.selection.latents for part in parts]), indptr, self.n_latents)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "token d_in"]:
        return kernels().sparse_decode(codes.values, Selection(codes.latents, codes.indptr, codes.n_latents), self.W_dec) + self.b_dec

    def reconstruct(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return self.decode(self.encode(x))

    def pre_activations(self, x: Float[Tensor, "token d_in"], out: Tensor | None = None) -> Float[Tensor, "token latent"]:
        """The encoder's product, before any selection."""
        return torch.addmm(self.b_enc, self.encoder_input(x), self.W_enc, out=out)

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
    def fold(self, scale_in: float, scale_out: float, mean: Float[Tensor, " d_in"] | None = None) -> Self:
        """Make an SAE that was trained on scaled rows work on raw ones, decoder rows unchanged.

        Training saw scale_in * (x - mean) and aimed at scale_out * target. From f(scale_in * (x - mean)) = scale_out * g(x), with
        z_raw = z / scale_out:  W_enc *= scale_in / scale_out,  b_enc /= scale_out,  b_dec /= scale_out,  threshold /= scale_out,  and
        b_enc takes up the rest: - mean @ W_enc, and where b_dec is subtracted, (scale_in / scale_out - 1) * b_dec @ W_enc / scale_out,
        because the subtracted b_dec is now the one in output units.
        """
        constant = torch.zeros_like(self.b_dec) if mean is None else -scale_in * mean
        if self.subtract_b_dec:
            constant = constant + (scale_in / scale_out - 1) * self.b_dec
        self.b_enc.add_(constant @ self.W_enc).div_(scale_out)
        self.W_enc.mul_(scale_in / scale_out)
        self.b_dec.div_(scale_out)
        self.threshold.div_(scale_out)
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
        return {name: getattr(self, name).detach().contiguous() for name in TENSORS}

    def weights_hash(self) -> str:
        """SHA-256 over all that defines the function: equal hashes, equal outputs."""
        digest = hashlib.sha256(f"subtract_b_dec={self.subtract_b_dec}".encode())
        for name, tensor in self.tensors().items():
            digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Sae({', '.join(f'{name} {value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in self._facts().items())
        return f"<table><caption>SAE</caption>{cells}</table>"

    def _facts(self) -> dict[str, str]:
        facts = {"d_in": str(self.d_in), "n_latents": str(self.n_latents)}
        if self.record is not None:
            record = self.record
            facts |= {"role": record.role, "architecture": record.architecture, "site": record.site, "subject": record.subject.name,
                      "l0": f"{record.l0:.1f}", "dead": str(record.n_dead), "trained on": f"{record.n_tokens_seen:,} tokens"}
        return facts
