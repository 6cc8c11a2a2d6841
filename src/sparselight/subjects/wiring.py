"""How a model's layers add up, found out on one tiny forward pass; what adds up gets a standard name.

    sequential   resid_mid = resid_pre + attn_out,           resid_post = resid_mid + mlp_out        (Llama, GPT-2, ESM-2, T5, ...)
    post_norm    resid_mid = norm(resid_pre + attn_out),     resid_post = norm(resid_mid + mlp_out)  (BERT, RoBERTa, DistilBERT)
    parallel     resid_post = resid_pre + attn_out + mlp_out, and there is no resid_mid              (GPT-J, Pythia, Falcon)

In every one of them resid_pre.N+1 is resid_post.N. A layer that adds up in none of these ways (scaled residual streams, extra paths)
keeps only the names that hold; the others are refused with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor, nn

from sparselight.subjects.families import Layer, Layout
from sparselight.subjects.site import Site

SLACK = 16  # units in the last place, of the largest number in a sum, by which a sum may be off


@dataclass(slots=True)
class StandardSites:
    """The standard names of one model."""

    sites: dict[str, Site] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Name to the reason why this model does not have it."""
    wirings: list[str] = field(default_factory=list)
    """One a layer: sequential, post_norm, parallel or unknown."""


def standard_sites(layout: Layout, seen: Mapping[Site, Tensor]) -> StandardSites:
    """Name the sites of a model whose definitions hold.

    Args:
        seen: what each possible site held on the probe, where it held one vector a position.
    """
    result = StandardSites()
    if layout.embed is not None and layout.embed in seen:
        result.sites[layout.embed.name] = layout.embed
    last: Tensor | None = None
    for layer in layout.layers:
        _name_layer(layer, seen, last, result)
        last = seen.get(layer.after)
    return result


def _name_layer(layer: Layer, seen: Mapping[Site, Tensor], last: Tensor | None, result: StandardSites) -> None:
    wiring, parts = _find_parts(layer, seen)
    result.wirings.append(wiring)
    act = [site for site in layer.act if site in seen][:1]
    for site in [layer.before, *parts[:-1], *act, *parts[-1:], layer.after]:
        if site in seen:
            result.sites[site.name] = site
    if last is not None and layer.before in seen and not _same(seen[layer.before], last):
        del result.sites[layer.before.name]
        result.refused[layer.before.name] = "the layer before it gives something else than this layer takes"
    for name in (layer.before.name.replace("resid_pre", part) for part in ("resid_mid", "attn_out", "mlp_out")):
        if name not in result.sites:
            result.refused[name] = ("attention and feed-forward block of this model run side by side" if wiring == "parallel"
                                    else "what the blocks of this layer give does not add up to its output in a way that is known here")


def _find_parts(layer: Layer, seen: Mapping[Site, Tensor]) -> tuple[str, list[Site]]:
    """Attention output, middle and feed-forward output in the order of the layer, and the wiring in which they add up."""
    if layer.before not in seen or layer.after not in seen:
        return "unknown", []
    before, after = seen[layer.before], seen[layer.after]
    attention, middle, feed_forward = ([site for site in part if site in seen and seen[site].shape == after.shape]
                                       for part in (layer.attention, layer.middle, layer.feed_forward))
    for add, mid, forward in product(attention, middle, feed_forward):
        if _adds_up(seen[mid], before, seen[add]) and _adds_up(after, seen[mid], seen[forward]):
            return "sequential", [add, mid, forward]
    for (first, second), add, mid, forward in product(layer.added_norms, attention, middle, feed_forward):
        if _is_normed(first, seen[mid], before + seen[add]) and _is_normed(second, after, seen[mid] + seen[forward]):
            return "post_norm", [add, mid, forward]
    for add, forward in product(attention, feed_forward):
        if _adds_up(after, before, seen[add], seen[forward]):
            return "parallel", [add, forward]
    return "unknown", []


def _adds_up(total: Tensor, *parts: Tensor) -> bool:
    dtype = total.dtype if total.dtype == parts[-1].dtype else max(total.dtype, parts[-1].dtype, key=lambda kind: torch.finfo(kind).eps)
    exact, size = sum(part.double() for part in parts), sum(part.double().abs() for part in parts)
    return bool(((total.double() - exact).abs() <= SLACK * torch.finfo(dtype).eps * (size + 1e-9)).all())


def _is_normed(norm: nn.Module, result: Tensor, total: Tensor) -> bool:
    device = next((parameter.device for parameter in norm.parameters()), result.device)
    with torch.no_grad():
        expected = norm(total.to(device)).to(result.device)
    bound = SLACK * torch.finfo(result.dtype).eps * (1 + expected.double().abs().max())
    return expected.shape == result.shape and bool(((result.double() - expected.double()).abs() <= bound).all())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b.device), b)
