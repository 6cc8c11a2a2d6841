"""Site names: the address of one tensor in a model, resolved to a module and a side of it.

Standard names (`vocab.SITES`) work for the families in FAMILIES; `PATH:input` and `PATH:output` work for every module path.
Adding a family is one row. Refuses: names that are neither, layers that the model does not have, modules that do not exist.
"""

import re
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class Family:
    """Where models of one construction keep their parts; alternatives are tried in order."""

    members: str
    layers: str
    embed: tuple[str, ...]
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    final_norm: str


FAMILIES: tuple[Family, ...] = (
    Family("Llama, Mistral, Qwen, Gemma, Phi-3, OLMo", "model.layers", ("model.embed_tokens",), ("self_attn",), ("mlp", "block_sparse_moe"), "model.norm"),
    Family("GPT-2, GPT-J, BLOOM, Falcon", "transformer.h", ("transformer.wte", "transformer.word_embeddings"), ("attn", "self_attention"), ("mlp",),
           "transformer.ln_f"),
    Family("GPT-NeoX, Pythia", "gpt_neox.layers", ("gpt_neox.embed_in",), ("attention",), ("mlp",), "gpt_neox.final_layer_norm"),
    Family("OPT", "model.decoder.layers", ("model.decoder.embed_tokens",), ("self_attn",), ("fc2",), "model.decoder.final_layer_norm"),
)


class SiteTable:
    """All standard sites of one model, and module paths beside them."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._family = next((family for family in FAMILIES if isinstance(_module_at(model, family.layers), nn.ModuleList)), None)
        layers = _module_at(model, self._family.layers) if self._family else None
        self.n_layers = len(layers) if isinstance(layers, nn.ModuleList) else 0
        self._sites = _standard_sites(model, self._family) if self._family else {}

    def names(self) -> list[str]:
        """The standard sites of this model, from its input to its output."""
        return list(self._sites)

    def final_norm(self) -> nn.Module | None:
        """The normalization before the output layer, where the model's family is known and it has one."""
        return _module_at(self._model, self._family.final_norm) if self._family else None

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
        module = _module_at(self._model, path)
        if module is None or not path:
            known = [known for known, _ in self._model.named_modules() if known]
            raise SubjectError(asked=f"use the site {name!r}", why=f"the model has no module {path!r}", instead=_nearest_path(path, known))
        return Site(name, module, "input" if side == "input" else "output")

    def _unknown(self, name: str) -> SubjectError:
        asked, kinds = f"use the site {name!r}", [kind.removesuffix(".N") for kind in SITES if kind.endswith(".N")]
        if not self._sites:
            return SubjectError(asked=asked, why="standard site names are not known for this kind of model",
                                instead="give a module path, for example PATH.OF.LAYER.5:output")
        layers = f"0 to {self.n_layers - 1}"
        kind, _, layer = name.partition(".")
        if kind in kinds and not layer:
            return SubjectError(asked=asked, why=f"it names no layer, and the model has layers {layers}",
                                instead=f"use for example '{kind}.{self.n_layers // 2}'")
        if kind in kinds and re.fullmatch(r"-?\d+", layer):
            if 0 <= int(layer) < self.n_layers:
                return SubjectError(asked=asked, why=f"layer {layer} of this model has no such part", instead=f"use 'resid_post.{layer}'")
            nearest_layer = min(max(int(layer), 0), self.n_layers - 1)
            return SubjectError(asked=asked, why=f"the model has layers {layers}", instead=f"use '{kind}.{nearest_layer}'")
        return SubjectError(asked=asked, why=f"the model has no such site (its layers are {layers})", instead=self._hint(name))

    def _hint(self, name: str) -> str:
        hint = nearest(name, self._sites)
        return hint if hint.startswith("use '") else f"use one of {', '.join(SITES)} with N from 0 to {self.n_layers - 1}"


def _standard_sites(model: nn.Module, family: Family) -> dict[str, Site]:
    sites: list[Site] = []
    embed = _first(model, family.embed)
    if embed is not None:
        sites.append(Site("embed", embed, "output"))
    layers = _module_at(model, family.layers)
    assert isinstance(layers, nn.ModuleList)
    for number, layer in enumerate(layers):
        attention, feed_forward = _first(layer, family.attention), _first(layer, family.feed_forward)
        if _module_at(layer, "post_feedforward_layernorm") is not None:
            # Gemma 2 and 3, OLMo 2: what is added to the residual stream is the block's output after a norm of its own.
            attention, feed_forward = _module_at(layer, "post_attention_layernorm"), _module_at(layer, "post_feedforward_layernorm")
        sites.append(Site(f"resid_pre.{number}", layer, "input"))
        if attention is not None:
            sites.append(Site(f"attn_out.{number}", attention, "output"))
        if feed_forward is not None:
            sites.append(Site(f"mlp_out.{number}", feed_forward, "output"))
        sites.append(Site(f"resid_post.{number}", layer, "output"))
    return {site.name: site for site in sites}


def _first(root: nn.Module, paths: Sequence[str]) -> nn.Module | None:
    return next((module for path in paths if (module := _module_at(root, path)) is not None), None)


def _module_at(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None


def _nearest_path(path: str, known: Sequence[str]) -> str:
    """The nearest module path; a whole list of a model's modules would help nobody."""
    hint = nearest(path, known)
    return f"{hint}, with :input or :output" if hint.startswith("use '") else "print(model) shows the module paths; write for example model.layers.0:output"
