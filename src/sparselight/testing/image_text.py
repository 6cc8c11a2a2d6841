"""Tiny image-text models of each family with random weights, written as complete Hugging Face folders: model, tokenizer, processor.

No files are read and nothing comes from a network; the same arguments write the same bytes. Their predictions mean nothing, their
interfaces are those of the real families: placeholders, pixel tensors, attention and positions are what transformers makes of such a model.
`tiny_studies` makes images and short reports to go with them.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparselight.protocols import Example, Image
from sparselight.testing.tiny import tiny_corpus, tiny_tokenizer

PAD = "<|pad|>"
IMAGE = "<image>"
N_VOCABULARY = 400
SHAPES = ((40, 60), (50, 32), (64, 64), (90, 41))  # height, width


def tiny_llava(
    folder: Path, seed: int = 0, tokenizer: Any = None, d: int = 32, n_layers: int = 2, vision_d: int = 16, vision_layers: int = 2, image_size: int = 32,
    patch_size: int = 8, context_tokens: int = 256, n_heads: int = 4, initializer_range: float = 0.2,
) -> Path:
    """Write a LLaVA: a CLIP vision tower, a projection, a Llama. An image becomes (image_size / patch_size) squared tokens.

    Args:
        folder: where config.json, model.safetensors, tokenizer and processor go; made where it is not there.
        seed: of the weights.
        tokenizer: a fast tokenizer of its own; by default one that is trained on `tiny_corpus`. It gets the tokens <image> and <|pad|> where it lacks them.
        d: width of the language model; a multiple of 2 * n_heads.
        vision_d: width of the vision tower; a multiple of n_heads.
        image_size: pixels that an image is scaled to on its shorter side, and cut to; a multiple of patch_size.
        context_tokens: positions of the language model.
        initializer_range: spread of the random weights; 0.02 is usual where the model is to be trained.

    Returns:
        The folder.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = with_tokens(tokenizer or tiny_tokenizer(N_VOCABULARY), {"image_token": IMAGE, "pad_token": PAD})
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=d, intermediate_size=2 * d, num_hidden_layers=n_layers, num_attention_heads=n_heads, num_key_value_heads=n_heads,
        max_position_embeddings=context_tokens, initializer_range=initializer_range, **end_ids(tokenizer),
    )
    vision = CLIPVisionConfig(
        hidden_size=vision_d, intermediate_size=2 * vision_d, num_hidden_layers=vision_layers, num_attention_heads=n_heads, image_size=image_size,
        patch_size=patch_size, projection_dim=vision_d, initializer_range=initializer_range,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), vision_feature_layer=-2,
                         vision_feature_select_strategy="default")
    processor = LlavaProcessor(square_pixels(image_size), tokenizer, patch_size=patch_size, vision_feature_select_strategy="default",
                               num_additional_image_tokens=1, image_token=IMAGE)
    return save_folder(folder, LlavaForConditionalGeneration, config, processor, seed)


def tiny_paligemma(folder: Path, seed: int = 0) -> Path:
    """Write a PaliGemma: a SigLIP vision tower, a projection, a Gemma; 16 tokens an image."""
    from transformers import GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, SiglipVisionConfig

    pixels = _pil("SiglipImageProcessor")(size={"height": 32, "width": 32})
    pixels.image_seq_length = 16
    processor = PaliGemmaProcessor(pixels, with_tokens(tiny_tokenizer(N_VOCABULARY), {"image_token": IMAGE, "pad_token": PAD}))
    tokenizer = processor.tokenizer  # it has got tokens of places and shapes as well
    text = GemmaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
                       head_dim=8, max_position_embeddings=256, initializer_range=0.2, **end_ids(tokenizer))
    width: dict[str, Any] = {"projection_dim": 32}  # configs take what their families add to them
    vision = SiglipVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
                                vision_use_head=False, **width)
    config = PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), projection_dim=32,
                             **end_ids(tokenizer))
    return save_folder(folder, PaliGemmaForConditionalGeneration, config, processor, seed)


def tiny_qwen2_vl(folder: Path, seed: int = 0, version: str = "2") -> Path:
    """Write a Qwen2-VL or (version 2.5) a Qwen2.5-VL: a vision tower for images of any shape, and a Qwen2 with positions in three axes."""
    import transformers

    kind = {"2": "Qwen2VL", "2.5": "Qwen2_5_VL"}[version]
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    tokenizer = with_tokens(tiny_tokenizer(N_VOCABULARY), {**names, "pad_token": PAD})
    ids = {f"{name.removesuffix('_token')}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "rope_parameters": rope, **end_ids(tokenizer)}
    vision = {"depth": 2, "num_heads": 4, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
              **({"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2} if version == "2" else
                 {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 32, "fullatt_block_indexes": [1]})}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **ids)
    pixels = _pil("Qwen2VLImageProcessor")(patch_size=8, merge_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64})
    pixels.save_pretrained(folder)  # not the whole processor, whose part for videos needs torchvision
    return save_folder(folder, getattr(transformers, f"{kind}ForConditionalGeneration"), config, tokenizer, seed)


def tiny_idefics3(folder: Path, seed: int = 0) -> Path:
    """Write an Idefics3: a SigLIP-like vision tower, four patches a token, a Llama; 4 tokens an image."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor

    tiles = {f"tile_{name}": token for name, token in (("fake", "<fake_token_around_image>"), ("whole", "<global-img>"), ("turn", "<end_of_utterance>"))}
    pixels = _pil("Idefics3ImageProcessor")(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    tokenizer = with_tokens(tiny_tokenizer(N_VOCABULARY), {"image_token": IMAGE, "pad_token": PAD, **tiles})
    processor = Idefics3Processor(pixels, tokenizer, image_seq_len=4)
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.2, **end_ids(tokenizer)}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
              "initializer_range": 0.2}
    config = Idefics3Config(text_config=text, vision_config=vision, scale_factor=2, image_token_id=tokenizer.convert_tokens_to_ids(IMAGE))
    return save_folder(folder, Idefics3ForConditionalGeneration, config, processor, seed)


def square_pixels(image_size: int) -> Any:
    """CLIP's image processor: shorter side scaled to image_size, the middle cut out."""
    return _pil("CLIPImageProcessor")(size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size})


def tiny_studies(folder: Path, n: int = 4, seed: int = 0) -> list[Example]:
    """`n` studies: noise pictures of different shapes, gray and in color, one study in four with two of them, and reports of different lengths."""
    import hashlib

    from PIL import Image as Pictures

    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        views = []
        for view in ("frontal", "lateral")[:1 + (number % 4 == 2)]:
            shape = (SHAPES[number % len(SHAPES)], (*SHAPES[number % len(SHAPES)], 3))[number % 2]
            path = folder / f"{seed}-{number}-{view}.png"
            Pictures.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(path)
            views.append(Image(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), view))
        words = tiny_corpus(n, seed=seed).examples[number].text * 3
        examples.append(Example(f"study {number}", f"FINDINGS: {words[:50 * (number % 3 + 1)]}", f"patient {number // 2}", images=tuple(views)))
    return examples


def _pil(name: str) -> Any:
    """An image processor that needs no torchvision; it is named so from transformers 5.0 on."""
    import transformers

    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def with_tokens(tokenizer: Any, tokens: dict[str, str]) -> Any:
    """A copy of a fast tokenizer with further special tokens, by the names under which transformers keeps them."""
    from transformers import PreTrainedTokenizerFast

    usual = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    named = {name: token for name, token in usual.items() if token} | {name: token for name, token in tokens.items() if name in usual}
    return PreTrainedTokenizerFast(tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer), **named,
                                   extra_special_tokens={name: token for name, token in tokens.items() if name not in usual})


def end_ids(tokenizer: Any) -> dict[str, Any]:
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def save_folder(folder: Path, model_class: Any, config: Any, processor: Any, seed: int) -> Path:
    """Write a random model and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).float().eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


IMAGE_TEXT_MODELS = {
    "llava": tiny_llava, "paligemma": tiny_paligemma, "qwen2_vl": tiny_qwen2_vl, "qwen2_5_vl": functools.partial(tiny_qwen2_vl, version="2.5"),
    "idefics3": tiny_idefics3,
}
"""Family to what writes a tiny model of it into a folder."""
