"""How families of vision-language models take images: one class a family, one row a model type.

Owns: which tensors an image becomes, the grid of its tokens, what a forward pass needs beside token ids (token types, positions in three axes), and how
the vision encoder runs by itself. Refuses: model types whose image tokens are no grid of patches, encoders and processors that do not fit together.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from sparselight.errors import SubjectError
from sparselight.subjects.site import module_at

Grid = tuple[int, int]
Row = Mapping[str, Tensor]
"""What the model is given of one row: tensors of its images by name, and `n_prompt`, how many positions stand before the text."""

TOWERS = ("vision_tower", "visual", "vision_model")
LANGUAGE_MODELS = ("language_model", "text_model")
OF_NO_GRID = {
    "llava_next": "it cuts each image into tiles of a number that depends on its shape, so that its tokens are no one grid of patches",
    "llava_onevision": "it cuts each image into tiles of a number that depends on its shape, so that its tokens are no one grid of patches",
    "idefics2": "it resamples each image into tokens that stand for no place in it",
    "blip-2": "it resamples each image into tokens that stand for no place in it",
    "instructblip": "it resamples each image into tokens that stand for no place in it",
    "mllama": "it reads images by cross-attention, not as tokens beside the text",
}


class Llava:
    """LLaVA and models of its construction: a vision tower's patches, projected, in the place of image tokens.

    Args:
        model: the whole model.
        image_processor: the processor's part for images.
        name: for messages.
    """

    prefix = "{images}\n"
    """The usual form of a prompt, where the processor has no chat template; `{bos}` is the tokenizer's BOS."""
    image_form = "{image}"
    instruction = "Describe the image."
    image_token = "<image>"
    """What stands for an image in text, where neither processor nor tokenizer says."""
    call: Mapping[str, Any] = {}
    """Arguments of the image processor."""

    def __init__(self, model: Any, image_processor: Any, name: str):
        self.config, self.model, self.processor, self.name = model.config, model, image_processor, name
        self.tower, self.tower_path = _part(model, TOWERS, name, "vision encoder")
        self.language_model, _ = _part(model, LANGUAGE_MODELS, name, "language model")
        own: Any = getattr(model.config, "image_token_id", None) or getattr(model.config, "image_token_index", -1)  # the older name
        self.image_token_id = int(own)
        self.patch_size = int(getattr(model.config.vision_config, "patch_size", 0))
        self.n_leading = 0
        self.n_extra = 0
        """Tokens of each image before its patches, in the vision encoder and in the language model: CLS and the like."""

    def settings(self) -> str:
        """What the image processor does, for fingerprints."""
        own = {name: value for name, value in self.processor.to_dict().items() if name not in ("processor_class", "name_or_path", "_name_or_path")}
        return json.dumps([type(self.processor).__name__, own, dict(self.call)], sort_keys=True, default=str)

    def around(self, image_token: str) -> str:
        """What stands for an image in the model's text, its token written once."""
        return image_token

    def pixels(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """Tensors of the images of one row."""
        return self._of_processor(self.processor(images=list(images), return_tensors="pt", **self.call))

    def grids(self, pixels: Row) -> list[Grid]:
        """Rows and columns of each image's tokens in the language model."""
        return self.tower_grids(pixels)

    def tower_grids(self, pixels: Row) -> list[Grid]:
        """Rows and columns of each image's patches in the vision encoder."""
        n, _, height, width = pixels["pixel_values"].shape
        return [(height // self.patch_size, width // self.patch_size)] * n

    def of_any_size(self) -> bool:
        """Whether images of all sizes become the same number of tokens."""
        return True

    def measure(self, blank: Row) -> None:
        """Find out on one blank image how many tokens stand before its patches.

        Raises:
            SubjectError: when the model leaves out a patch.
        """
        rows, columns = self.tower_grids(blank)[0]
        hidden = next(iter(self.run_tower(blank).values()))
        hidden = hidden[0] if isinstance(hidden, tuple | list) else hidden  # backbones give one map a layer
        self.n_leading = self.n_extra = hidden.shape[:-1].numel() - rows * columns
        if getattr(self.config, "vision_feature_select_strategy", None) == "default":
            self.n_extra -= 1
        if self.n_leading < 0 or self.n_extra < 0:
            raise SubjectError(asked=f"study {self.name} as an image-text model", why="it leaves out the first patch of each image (vision_feature_select_"
                               "strategy = 'default', and its vision encoder has no class token)" if self.n_leading == 0 else
                               f"its vision encoder gives {hidden.shape[:-1].numel()} vectors for {rows} x {columns} patches",
                               instead="choose a checkpoint whose vision encoder and settings fit together")

    @torch.no_grad()
    def run_tower(self, pixels: Row) -> Any:
        """A pass of the vision encoder alone."""
        return self.tower(pixels["pixel_values"].to(self._device(), self.model.dtype))

    def tower_order(self, _grid: Grid) -> Int[Tensor, " patch"] | None:
        """Where each patch, row by row of the image, stands in the vision encoder; None where that is its order."""
        return None

    def arguments(self, rows: Sequence[Row], ids: Int[Tensor, "row position"], mask: Int[Tensor, "row position"]) -> dict[str, Any]:  # noqa: ARG002
        """What a pass from the beginning of rows is given beside ids and mask."""
        own = [row["pixel_values"] for row in rows if "pixel_values" in row]
        return {"pixel_values": torch.cat(own).to(ids.device, self.model.dtype)} if own else {}

    def step_arguments(self, rows: Sequence[Row], mask: Int[Tensor, "row position"]) -> dict[str, Any]:  # noqa: ARG002
        """What a pass over the last position of each row is given beside ids, mask and cache."""
        return {}

    def _of_processor(self, found: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"pixel_values": found["pixel_values"]}

    def _device(self) -> torch.device:
        return next(self.tower.parameters()).device


class PaliGemma(Llava):
    """PaliGemma 1 and 2: images and prompt see each other in both directions, the text is read from left to right."""

    prefix = "{images}{bos}{instruction}\n"
    instruction = "caption en"

    def arguments(self, rows: Sequence[Row], ids: Int[Tensor, "row position"], mask: Int[Tensor, "row position"]) -> dict[str, Any]:
        n_prompt = torch.stack([row["n_prompt"] for row in rows])[:, None].to(ids.device)
        seen: Bool[Tensor, "row position"] = mask.bool()
        in_text = (mask.cumsum(-1) - 1 >= n_prompt) | ~seen
        return {**super().arguments(rows, ids, mask), "token_type_ids": in_text.long()}


class QwenVL(Llava):
    """Qwen2-VL and Qwen2.5-VL: images of any shape, four patches a token, positions in time, height and width."""

    image_form = "<|vision_start|>{image}<|vision_end|>"
    image_token = "<|image_pad|>"

    def __init__(self, model: Any, image_processor: Any, name: str):
        super().__init__(model, image_processor, name)
        self.merge = int(model.config.vision_config.spatial_merge_size)

    def grids(self, pixels: Row) -> list[Grid]:
        return [(rows // self.merge, columns // self.merge) for rows, columns in self.tower_grids(pixels)]

    def tower_grids(self, pixels: Row) -> list[Grid]:
        return [(int(rows), int(columns)) for _, rows, columns in pixels["image_grid_thw"].tolist()]

    def of_any_size(self) -> bool:
        return False

    @torch.no_grad()
    def run_tower(self, pixels: Row) -> Any:
        found = self.tower(pixels["pixel_values"].to(self._device(), self.model.dtype), grid_thw=pixels["image_grid_thw"].to(self._device()))
        return {"hidden": pixels["pixel_values"]} if isinstance(found, Tensor) else found  # before transformers 5 only what the merger gives

    def tower_order(self, grid: Grid) -> Int[Tensor, " patch"] | None:
        """Patches stand in blocks of merge x merge."""
        rows, columns, merge = *grid, self.merge
        places = torch.arange(rows * columns).view(rows // merge, columns // merge, merge, merge)
        return places.permute(0, 2, 1, 3).reshape(-1)

    def arguments(self, rows: Sequence[Row], ids: Int[Tensor, "row position"], mask: Int[Tensor, "row position"]) -> dict[str, Any]:
        given = super().arguments(rows, ids, mask)
        if not given:
            return {}
        grids = torch.cat([row["image_grid_thw"] for row in rows if "image_grid_thw" in row]).to(ids.device)
        return {**given, "image_grid_thw": grids, "mm_token_type_ids": (ids == self.image_token_id).int()}

    def step_arguments(self, rows: Sequence[Row], mask: Int[Tensor, "row position"]) -> dict[str, Any]:
        """An image of h x w tokens takes max(h, w) positions, so what follows it has lower numbers than its place in the row."""
        shift = [sum(max(grid) - grid[0] * grid[1] for grid in self.grids(row)) if "image_grid_thw" in row else 0 for row in rows]
        last = mask.sum(1) - 1 + torch.tensor(shift, device=mask.device)
        return {"position_ids": last[None, :, None].expand(3, -1, 1)}

    def _of_processor(self, found: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"pixel_values": found["pixel_values"], "image_grid_thw": found["image_grid_thw"]}


class Idefics3(Llava):
    """Idefics3 and SmolVLM, each image shown as one tile: the whole picture."""

    prefix = "{images}\n"
    call: Mapping[str, Any] = {"do_image_splitting": False}

    def __init__(self, model: Any, image_processor: Any, name: str):
        super().__init__(model, image_processor, name)
        self.scale = int(model.config.scale_factor)

    def around(self, image_token: str) -> str:
        return f"<fake_token_around_image><global-img>{image_token}<fake_token_around_image>"

    def pixels(self, images: Sequence[Any]) -> dict[str, Tensor]:
        return self._of_processor(self.processor(images=[list(images)], return_tensors="pt", **self.call))

    def grids(self, pixels: Row) -> list[Grid]:
        return [(rows // self.scale, columns // self.scale) for rows, columns in self.tower_grids(pixels)]

    def arguments(self, rows: Sequence[Row], ids: Int[Tensor, "row position"], mask: Int[Tensor, "row position"]) -> dict[str, Any]:  # noqa: ARG002
        own = [row for row in rows if "pixel_values" in row]
        if not own:
            return {}
        most = max(len(row["pixel_values"]) for row in own)
        pixels, masks = (torch.stack([_filled(row[name], most) for row in own]).to(ids.device) for name in ("pixel_values", "pixel_attention_mask"))
        return {"pixel_values": pixels.to(self.model.dtype), "pixel_attention_mask": masks}

    def _of_processor(self, found: Mapping[str, Any]) -> dict[str, Tensor]:
        pixels = found["pixel_values"][0]
        masks = found["pixel_attention_mask"][0] if "pixel_attention_mask" in found else torch.ones(len(pixels), *pixels.shape[-2:], dtype=torch.int64)
        return {"pixel_values": pixels, "pixel_attention_mask": masks}


FAMILIES: dict[str, type[Llava]] = {
    "llava": Llava, "maira2": Llava, "paligemma": PaliGemma, "qwen2_vl": QwenVL, "qwen2_5_vl": QwenVL, "idefics3": Idefics3, "smolvlm": Idefics3,
}


def family_of(model_config: Any, asked: str) -> type[Llava]:
    """The family of a model, by its config.

    Raises:
        SubjectError: for models that read no images, or read them in a way that is not known here.
    """
    kind = str(getattr(model_config, "model_type", ""))
    tower = getattr(getattr(model_config, "vision_config", None), "model_type", "")
    if kind == "llava" and tower == "pixtral":
        raise SubjectError(asked=asked, why="its vision encoder is a Pixtral, which writes a token behind each row of patches",
                           instead="choose a LLaVA with a CLIP or SigLIP encoder, or a Qwen2-VL for images of any shape")
    if kind not in FAMILIES:
        why = OF_NO_GRID.get(kind) or ("it reads no images" if not hasattr(model_config, "vision_config") else f"how {kind} reads images is not known here")
        raise SubjectError(asked=asked, why=why, instead=f"choose a model of the type {', '.join(FAMILIES)}, or set subject.kind to what it is")
    return FAMILIES[kind]


def _part(model: Any, names: Sequence[str], name: str, what: str) -> tuple[Any, str]:
    for path in [f"{root}{part}" for part in names for root in ("model.", "")]:
        module = module_at(model, path)
        if isinstance(module, nn.Module):
            return module, path
    raise SubjectError(asked=f"study {name} as an image-text model", why=f"it has no {what} in a place that is known here",
                       instead="use a release of transformers that fits the model")


def _filled(x: Tensor, n: int) -> Tensor:
    """The images of a row, blank ones behind them."""
    return torch.cat([x, x.new_zeros(n - len(x), *x.shape[1:])])
