"""sparselight: find, name, test and steer the features inside any PyTorch model with sparse autoencoders.

The public functions are loaded when first used, so that `import sparselight` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["evaluate", "explain", "harvest", "load_corpus", "load_sae", "load_subject", "run", "select", "steer", "stitch", "train"]

if TYPE_CHECKING:
    from sparselight.api import evaluate, explain, harvest, load_corpus, load_sae, load_subject, run, select, steer, stitch, train


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sparselight import api

        return getattr(api, name)
    raise AttributeError(f"module 'sparselight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
