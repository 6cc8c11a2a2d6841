"""For authors of subjects and coders: contract batteries, tiny subjects of each family, and a tiny corpus to try them on."""

from sparselight.testing.batteries import check_sparse_coder, check_subject
from sparselight.testing.families import FAMILY_MODELS, tiny_family
from sparselight.testing.image_text import IMAGE_TEXT_MODELS, tiny_llava, tiny_studies
from sparselight.testing.llm_server import LlmServer, read_and_judge
from sparselight.testing.tiny import (
    DOMAIN_GROUPS,
    tiny_corpus,
    tiny_esm_tokenizer,
    tiny_proteins,
    tiny_subject,
    tiny_tokenizer,
    tiny_wordpiece_tokenizer,
)

__all__ = [
    "DOMAIN_GROUPS", "FAMILY_MODELS", "IMAGE_TEXT_MODELS", "LlmServer", "check_sparse_coder", "check_subject", "read_and_judge", "tiny_corpus",
    "tiny_esm_tokenizer", "tiny_family", "tiny_llava", "tiny_proteins", "tiny_studies", "tiny_subject", "tiny_tokenizer", "tiny_wordpiece_tokenizer",
]
