"""Where models of each construction keep their parts: one row a family, paths relative to the model without its head.

A part may have several possible places; `wiring.py` tries them in order and keeps the one with which the residual stream adds up. So a
row only has to list places, and a model that adds up otherwise gets no wrong name. Adding a family is one row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparselight.subjects.site import Site, module_at


@dataclass(frozen=True, slots=True)
class Family:
    """Places of the parts; alternatives are tried in order. Those from `attention` to `act` are relative to a layer."""

    members: str
    layers: tuple[str, ...]
    embed: tuple[str, ...]
    attention: tuple[str, ...]
    """Modules whose output the attention block adds to the residual stream."""
    feed_forward: tuple[str, ...]
    """Modules whose output the feed-forward block adds to it."""
    middle: tuple[str, ...]
    """Where the stream between the two blocks can be read, with :input or :output."""
    act: tuple[str, ...]
    """The projection down from the feed-forward block's hidden width: its input is mlp_act."""
    final_norm: tuple[str, ...] = ()
    """The normalization before the output layer."""
    added_norms: tuple[tuple[str, str], ...] = ()
    """Post-norm models: normalizations of the sum after attention and after feed-forward."""


FAMILIES: tuple[Family, ...] = (
    Family(
        "Llama, Mistral, Mixtral, Qwen 2 and 3, Gemma 1 to 3, Phi, Phi-3, OLMo, OLMo 2, Cohere, SmolLM",
        layers=("layers", "language_model.layers"), embed=("embed_tokens", "language_model.embed_tokens"),
        # Gemma 2 and 3 and OLMo 2 normalize what a block gives before they add it.
        attention=("post_attention_layernorm", "post_self_attn_layernorm", "self_attn"),
        feed_forward=("post_feedforward_layernorm", "post_mlp_layernorm", "mlp", "block_sparse_moe", "feed_forward"),
        middle=("pre_feedforward_layernorm:input", "post_attention_layernorm:input", "mlp:input"),
        act=("mlp.down_proj", "mlp.fc2", "mlp.c_proj"), final_norm=("norm", "final_layernorm", "language_model.norm"),
    ),
    Family(
        "GPT-2, GPT-J, CodeGen, GPT-BigCode", layers=("h",), embed=("wte",), attention=("attn",), feed_forward=("mlp",), middle=("ln_2:input",),
        act=("mlp.c_proj", "mlp.fc_out"), final_norm=("ln_f",),
    ),
    Family(
        "BLOOM, Falcon", layers=("h",), embed=("word_embeddings",), attention=("self_attention.dense",), feed_forward=("mlp.dense_4h_to_h",),
        middle=("post_attention_layernorm:input",), act=("mlp.dense_4h_to_h",), final_norm=("ln_f",),
    ),
    Family(
        "GPT-NeoX, Pythia", layers=("layers",), embed=("embed_in",), attention=("attention",), feed_forward=("mlp",),
        middle=("post_attention_layernorm:input",), act=("mlp.dense_4h_to_h",), final_norm=("final_layer_norm",),
    ),
    Family(
        "OPT", layers=("decoder.layers",), embed=("decoder.embed_tokens",), attention=("self_attn",), feed_forward=("fc2",),
        middle=("final_layer_norm:input", "self_attn_layer_norm:output"), act=("fc2",), final_norm=("decoder.final_layer_norm",),
        added_norms=(("self_attn_layer_norm", "final_layer_norm"),),
    ),
    Family(
        "BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA, DeBERTa, MPNet, ESM-2", layers=("encoder.layer",), embed=("embeddings.word_embeddings",),
        attention=("attention.output.dense", "attention.attn.o"), feed_forward=("output.dense",), middle=("attention.output:output", "attention:output"),
        act=("output.dense",), final_norm=("encoder.emb_layer_norm_after",),
        added_norms=(("attention.output.LayerNorm", "output.LayerNorm"), ("attention.LayerNorm", "output.LayerNorm")),
    ),
    Family(
        "DistilBERT", layers=("transformer.layer",), embed=("embeddings.word_embeddings",), attention=("attention",), feed_forward=("ffn",),
        middle=("sa_layer_norm:output",), act=("ffn.lin2",), added_norms=(("sa_layer_norm", "output_layer_norm"),),
    ),
    Family(
        "ModernBERT", layers=("layers",), embed=("embeddings.tok_embeddings",), attention=("attn",), feed_forward=("mlp",), middle=("mlp_norm:input",),
        act=("mlp.Wo",), final_norm=("final_norm",),
    ),
    Family(
        "encoders of T5, mT5, ByT5", layers=("encoder.block",), embed=("encoder.embed_tokens", "shared"), attention=("layer.0.SelfAttention",),
        feed_forward=("layer.1.DenseReluDense",), middle=("layer.0:output",), act=("layer.1.DenseReluDense.wo",), final_norm=("encoder.final_layer_norm",),
    ),
    Family(
        "vision encoders of CLIP, SigLIP, Idefics3, SmolVLM", layers=("encoder.layers", "vision_model.encoder.layers"),
        embed=("embeddings", "vision_model.embeddings"), attention=("self_attn",), feed_forward=("mlp",), middle=("layer_norm2:input",), act=("mlp.fc2",),
        final_norm=("post_layernorm", "vision_model.post_layernorm"),
    ),
    Family(
        "DINOv2", layers=("encoder.layer",), embed=("embeddings",), attention=("layer_scale1",), feed_forward=("layer_scale2",), middle=("norm2:input",),
        act=("mlp.fc2", "mlp.weights_out", "mlp.down_proj"), final_norm=("layernorm",),
    ),
    Family(
        "vision encoder of Qwen2-VL", layers=("blocks",), embed=("patch_embed",), attention=("attn",), feed_forward=("mlp",), middle=("norm2:input",),
        act=("mlp.fc2", "mlp.down_proj"),
    ),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """All places at which the parts of one layer may be."""

    before: Site
    after: Site
    attention: list[Site]
    feed_forward: list[Site]
    middle: list[Site]
    act: list[Site]
    added_norms: list[tuple[nn.Module, nn.Module]]

    def sites(self) -> list[Site]:
        return [self.before, *self.attention, *self.middle, *self.feed_forward, *self.act, self.after]


@dataclass(frozen=True, slots=True)
class Layout:
    """One model's parts, as its family's row finds them; without layers where no row fits."""

    embed: Site | None = None
    layers: list[Layer] = field(default_factory=list)
    final_norm: nn.Module | None = None

    def sites(self) -> list[Site]:
        return [*([self.embed] if self.embed else []), *(site for layer in self.layers for site in layer.sites())]


def lay_out(model: nn.Module) -> Layout:
    """The parts of a model by the first family whose layers and embedding it has."""
    base: Any = getattr(model, "base_model", model)
    for root in (base, model) if isinstance(base, nn.Module) else (model,):
        for family in FAMILIES:
            layers, embed = _first(root, family.layers), _first(root, family.embed)
            if isinstance(layers, nn.ModuleList) and embed is not None and any(_first(layer, family.attention) for layer in layers):
                return Layout(Site("embed", embed, "output"), [_layer(family, number, layer) for number, layer in enumerate(layers)],
                              _first(root, family.final_norm))
    return Layout()


def _layer(family: Family, number: int, layer: nn.Module) -> Layer:
    def outputs(kind: str, paths: Sequence[str]) -> list[Site]:
        return [Site(f"{kind}.{number}", module, "output") for module in _all(layer, paths)]

    middle = [(module_at(layer, path), side) for path, _, side in (place.partition(":") for place in family.middle)]
    norms = [(module_at(layer, first), module_at(layer, second)) for first, second in family.added_norms]
    return Layer(
        before=Site(f"resid_pre.{number}", layer, "input"), after=Site(f"resid_post.{number}", layer, "output"),
        attention=outputs("attn_out", family.attention), feed_forward=outputs("mlp_out", family.feed_forward),
        middle=[Site(f"resid_mid.{number}", module, "input" if side == "input" else "output") for module, side in middle if module is not None],
        act=[Site(f"mlp_act.{number}", module, "input") for module in _all(layer, family.act)],
        added_norms=[(first, second) for first, second in norms if first is not None and second is not None],
    )


def _all(root: nn.Module, paths: Sequence[str]) -> Iterator[nn.Module]:
    return (module for path in paths if (module := module_at(root, path)) is not None)


def _first(root: nn.Module, paths: Sequence[str]) -> nn.Module | None:
    return next(_all(root, paths), None)
