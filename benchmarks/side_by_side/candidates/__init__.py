"""The table of candidates: whose they are, where their library is installed, which architectures they know. Standard library only."""

from dataclasses import dataclass

ALL_KINDS = ("topk", "batch_topk", "matryoshka", "relu", "jump_relu")


@dataclass(frozen=True)
class Row:
    """One candidate."""

    title: str
    module: str
    """In this package: holds `Trainer` and `Inference`, both called with (task, variant)."""
    environment: str
    """Folder of its virtual environment, from the root of the repository."""
    package: str
    """What to import, to see whether an interpreter has it."""
    distribution: str
    """What the package is called where it is installed from."""
    kinds: tuple[str, ...]
    variant: str = ""
    encode_kinds: tuple[str, ...] = ()


CANDIDATES = {
    "ours": Row("sparselight", "ours", ".venv", "sparselight", "sparselight", ALL_KINDS, "auto", ("topk", "jump_relu")),
    "ours-torch": Row("sparselight, PyTorch only", "ours", ".venv", "sparselight", "sparselight", ALL_KINDS, "torch", ("topk", "jump_relu")),
    "saelens": Row("SAELens", "saelens", ".venv-bench-saelens", "sae_lens", "sae-lens", ALL_KINDS, "dense", ("topk", "jump_relu")),
    "saelens-coo": Row("SAELens, sparse COO option", "saelens", ".venv-bench-saelens", "sae_lens", "sae-lens", ("topk",), "coo"),
    "dictionarylearning": Row(
        "dictionary_learning", "dictionarylearning", ".venv-bench-dictionarylearning", "dictionary_learning", "dictionary-learning", ALL_KINDS,
        encode_kinds=("topk", "jump_relu"),
    ),
    "sparsify": Row("sparsify, Adam", "sparsify", ".venv-bench-sparsify", "sparsify", "eai-sparsify", ("topk",), "adam", ("topk",)),
    "sparsify-signum": Row("sparsify, Signum", "sparsify", ".venv-bench-sparsify", "sparsify", "eai-sparsify", ("topk",), "signum"),
    "overcomplete": Row(
        "overcomplete", "overcomplete", ".venv-bench-overcomplete", "overcomplete", "overcomplete", ("topk", "batch_topk", "relu", "jump_relu"),
        encode_kinds=("topk", "jump_relu"),
    ),
}
OURS = ("ours", "ours-torch")


def peers_for(kind: str, mode: str) -> list[str]:
    """Names of the other libraries' candidates that know an architecture."""
    return [name for name, row in CANDIDATES.items() if name not in OURS and kind in (row.encode_kinds if mode == "encode" else row.kinds)]
