"""What one measurement is: shape, architecture, state of the weights, precision. Plain data that goes to workers as JSON."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

SHAPES = {"s": (384, 6144), "m": (768, 24576), "l": (2304, 16384)}
CUDA_SHAPES = {"gpu-m": (2304, 65536), "gpu-l": (4096, 131072)}

# Every architecture, and the states of the weights in which it is measured. `fresh`: as a training begins; relu and jump_relu then have
# about half of all latents active. `sparse`: encoder bias or thresholds such that about k are, as late in a training.
KINDS = {"topk": ("fresh",), "batch_topk": ("fresh",), "matryoshka": ("fresh",), "relu": ("fresh", "sparse"), "jump_relu": ("fresh", "sparse")}
ENCODE_KINDS = {"topk": ("fresh",), "jump_relu": ("sparse",)}
MATRYOSHKA_PARTS = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the dictionary, from one prefix's end to the next one's

# Adam's rate changes no time. It is an ordinary one where k fixes how many latents are active, and tiny where the weights decide that, so
# that the state being measured stays what it is.
LR_FIXED_K, LR_FREE = 2e-4, 1e-5
FRESH_THRESHOLD = 0.01
BANDWIDTH = 0.05
SPARSITY_WEIGHT = 1e-3


@dataclass(frozen=True)
class Task:
    """One thing to do, the same for every candidate."""

    mode: str
    """`train`: whole training steps. `encode`: inference, encoder and decoder. `scaling`, `overheads`: training steps of ours alone."""
    kind: str
    state: str
    d_in: int
    n_latents: int
    k: int
    batch: int
    device: str = "cpu"
    precision: str = "highest"
    """torch.set_float32_matmul_precision of every worker."""
    autocast: bool = False
    """bf16 autocast, in the way that each library offers it."""
    threads: int = 1
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of our own trainer, for comparisons of ours with ours."""

    @property
    def lr(self) -> float:
        return LR_FREE if self.kind in ("relu", "jump_relu") else LR_FIXED_K

    @property
    def prefix_ends(self) -> tuple[int, ...]:
        """Where the prefixes of a Matryoshka dictionary end."""
        ends, total = [], 0.0
        for part in MATRYOSHKA_PARTS:
            total += part
            ends.append(round(total * self.n_latents))
        return tuple(ends)

    def with_(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
