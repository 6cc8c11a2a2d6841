"""Site names: the address of one tensor in a model, resolved to a module and a side of it.

Standard names (`vocab.SITES`) stand for what `wiring.py` found in the model; `PATH:input` and `PATH:output` work for every module path.
Refuses: names that are neither, layers that the model does not have, names whose definition this model does not keep.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from sparselight.errors import SubjectError, nearest
from sparselight.vocab import SITES

Side = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Site:
    """A tensor of a model: the first input or the first output of one module."""

    name: str
    module: nn.Module
    side: Side


class SiteTable:
    """All standard sites of one model, and module paths beside them.

    Args:
        sites: standard name to site, from the model's input to its output.
        refused: standard names that this model does not keep, with the reason.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, Site], n_layers: int, refused: Mapping[str, str] | None = None):
        self._model = model
        self._sites = dict(sites)
        self._refused = dict(refused or {})
        self.n_layers = n_layers

    def names(self) -> list[str]:
        """The standard sites of this model, from its input to its output."""
        return list(self._sites)

    def resolve(self, name: str) -> Site:
        """Find the module and side that a site name addresses.

        Raises:
            SubjectError: naming the nearest site, or the range of layers.
        """
        if name in self._sites:
            return self._sites[name]
        path, colon, side = name.rpartition(":")
        if not colon:
            raise self._unknown(name)
        if side not in ("input", "output"):
            raise SubjectError(asked=f"use the site {name!r}", why=f"a module path ends in :input or :output, not in :{side}", instead=f"write {path}:output")
        module = module_at(self._model, path)
        if module is None or not path:
            known = [known for known, _ in self._model.named_modules() if known]
            raise SubjectError(asked=f"use the site {name!r}", why=f"the model has no module {path!r}", instead=_nearest_path(path, known))
        return Site(name, module, "input" if side == "input" else "output")

    def _unknown(self, name: str) -> SubjectError:
        asked, kinds = f"use the site {name!r}", [kind.removesuffix(".N") for kind in SITES if kind.endswith(".N")]
        if name == "pooled":
            return SubjectError(asked=asked, why="this subject has one vector a token, not one an example",
                                instead="load an encoder with subject.pooling = 'auto' (or 'mean', 'cls')")
        if not self._sites:
            return SubjectError(asked=asked, why="standard site names are not known for this kind of model",
                                instead="give a module path, for example PATH.OF.LAYER.5:output")
        layers = f"0 to {self.n_layers - 1}"
        root = "vision." if name.startswith("vision.") and all(known.startswith("vision.") for known in self._sites) else ""
        kind, _, layer = name.removeprefix(root).partition(".")
        if kind in kinds and not layer:
            return SubjectError(asked=asked, why=f"it names no layer, and the model has layers {layers}",
                                instead=f"use for example '{root}{kind}.{self.n_layers // 2}'")
        if kind in kinds and re.fullmatch(r"-?\d+", layer):
            if 0 <= int(layer) < self.n_layers:
                why = self._refused.get(name, f"layer {layer} of this model has no such part")
                return SubjectError(asked=asked, why=why, instead=f"use '{root}resid_post.{layer}', or a module path")
            nearest_layer = min(max(int(layer), 0), self.n_layers - 1)
            return SubjectError(asked=asked, why=f"the model has layers {layers}", instead=f"use '{root}{kind}.{nearest_layer}'")
        return SubjectError(asked=asked, why=f"the model has no such site (its layers are {layers})", instead=self._hint(name))

    def _hint(self, name: str) -> str:
        hint = nearest(name, self._sites)
        return hint if hint.startswith("use '") else f"use one of {', '.join(SITES)} with N from 0 to {self.n_layers - 1}"


def module_at(root: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, where there is one."""
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _nearest_path(path: str, known: Sequence[str]) -> str:
    """The nearest module path; a whole list of a model's modules would help nobody."""
    hint = nearest(path, known)
    return f"{hint}, with :input or :output" if hint.startswith("use '") else "print(model) shows the module paths; write for example model.layers.0:output"
