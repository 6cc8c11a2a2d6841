"""What coders and examples are, as hashes: equal hashes, equal results. A coder whose state cannot be seen has none."""

import hashlib
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from sparselight.config import canonical_json
from sparselight.protocols import Example


def coder_hash(coder: object) -> str | None:
    """Hash of a coder's weights; None where it is neither an SAE, a module nor a dataclass of tensors and numbers."""
    if hasattr(coder, "weights_hash"):
        return str(coder.weights_hash())
    if isinstance(coder, nn.Module):
        return values_hash(coder.state_dict().values(), type(coder).__qualname__)
    values = [getattr(coder, name) for name in getattr(coder, "__dataclass_fields__", ())]
    if not hasattr(coder, "__dataclass_fields__") or not all(isinstance(value, Tensor | int | float | str | None) for value in values):
        return None
    return values_hash(values, type(coder).__qualname__)


def values_hash(values: Iterable[object], kind: str = "") -> str:
    """SHA-256 over tensors, by their bytes, and plain values."""
    digest = hashlib.sha256(kind.encode())
    for value in values:
        tensor = value.detach().cpu().contiguous() if isinstance(value, Tensor) else None
        digest.update(f"\0{value!r}".encode() if tensor is None else f"\0{tensor.dtype}{list(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def examples_hash(examples: Sequence[Example]) -> str:
    """SHA-256 over id, group, text, labels and spans of examples, in any order."""
    parts = sorted(
        hashlib.sha256(canonical_json(
            [one.id, one.group, one.text, one.labels, [[span.start, span.end, span.name, span.value] for span in one.spans]]).encode()).digest()
        for one in examples)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def ids_hash(examples: Sequence[Example]) -> str:
    """SHA-256 over the ids and groups alone: which examples they are, whether or not their texts and labels were given."""
    return hashlib.sha256(canonical_json(sorted([one.id, one.group] for one in examples)).encode()).hexdigest()
