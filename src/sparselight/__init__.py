"""sparselight: find, name, test and steer the features inside any PyTorch model with sparse autoencoders.

The public functions are loaded when first used, so that `import sparselight` costs next to nothing. Some have the name of a stage's
folder (train, select, evaluate): `sparselight.train` is the function, `from sparselight.train import ...` reaches the folder.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Condition", "Edit", "EditSet", "Where", "compare", "concept_dictionary", "editing", "evaluate", "explain", "export_sae", "fetch_uniprot", "freeze",
    "generate_with", "graft", "harvest", "influence", "load_corpus", "load_sae", "load_subject", "measure_layers", "name_latents", "open_run", "plant", "run",
    "sae_from_arrays", "select", "serve", "specialise", "steer", "steer_sequences", "steer_study", "stitch", "summarize_sequences", "train", "train_many",
    "train_recommender", "tune", "tune_concept", "unmask", "view_structure", "wrap_coder",
]

if TYPE_CHECKING:
    from sparselight.api import (
        Condition,
        Edit,
        EditSet,
        Where,
        compare,
        concept_dictionary,
        editing,
        evaluate,
        explain,
        export_sae,
        fetch_uniprot,
        freeze,
        generate_with,
        graft,
        harvest,
        influence,
        load_corpus,
        load_sae,
        load_subject,
        measure_layers,
        name_latents,
        open_run,
        plant,
        run,
        sae_from_arrays,
        select,
        serve,
        specialise,
        steer,
        steer_sequences,
        steer_study,
        stitch,
        summarize_sequences,
        train,
        train_many,
        train_recommender,
        tune,
        tune_concept,
        unmask,
        view_structure,
        wrap_coder,
    )


class _Package(ModuleType):
    """The package with its public functions as properties: importing a folder of the same name cannot take their place."""

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


def _public(name: str) -> property:
    def load(_package: ModuleType) -> Any:
        return getattr(importlib.import_module("sparselight.api"), name)

    def ignore(_package: ModuleType, _folder: ModuleType) -> None:
        """The import system offers the folder of that name."""

    return property(load, ignore)


for _name in __all__:
    setattr(_Package, _name, _public(_name))
sys.modules[__name__].__class__ = _Package
