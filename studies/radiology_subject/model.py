"""The small radiology subject: LLaVA architecture, CLIP vision encoder on 28 x 28 pictures (7 x 7 patches), Llama language model, both trained here.

`build` makes model and processor from nothing but a tokenizer; `save` writes what `subject.source` takes.
"""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH = 28, 4
N_PATCHES = (SIDE // PATCH) ** 2
VOCABULARY, CONTEXT = 2048, 512
MEAN, STD = 0.57, 0.17  # of PneumoniaMNIST's training pixels
BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"
PREFIX = f"{IMAGE}\n"  # before the report; the BOS token comes by itself
# Words with a leading space, single digits, runs of punctuation, newlines: no token spans the end of a section.
SPLIT = r" ?[A-Za-z]+|\d| ?[^\sA-Za-z0-9]+|\n|\s+"


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the training reports."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BOS, EOS, PAD, IMAGE], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=CONTEXT,
                                   extra_special_tokens={"image_token": IMAGE}, padding_side="right")


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    size = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, image_mean=[MEAN] * 3, image_std=[STD] * 3)
    return LlavaProcessor(image_processor=pictures, tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", image_token=IMAGE,
                          num_additional_image_tokens=1)


def make_model(tokenizer: PreTrainedTokenizerFast, vision_width: int = 96, width: int = 160, n_layers: int = 4) -> LlavaForConditionalGeneration:
    """Random weights. CLS is dropped from what the language model sees, so that image tokens are patches."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=vision_width, intermediate_size=4 * vision_width, num_hidden_layers=n_layers, num_attention_heads=vision_width // 32,
                              image_size=SIDE, patch_size=PATCH, projection_dim=vision_width)
    text = LlamaConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=n_layers,
                       num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
                       bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), vision_feature_select_strategy="default",
        vision_feature_layer=-1, image_seq_length=N_PATCHES, tie_word_embeddings=True,
    ))


def save(folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    """A folder that transformers and `subject.source` load."""
    model.float().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
