"""For authors of subjects and coders: contract batteries, and a tiny subject and corpus to try them on."""

from sparselight.testing.batteries import check_sparse_coder, check_subject
from sparselight.testing.tiny import DOMAIN_GROUPS, tiny_corpus, tiny_subject, tiny_tokenizer

__all__ = ["DOMAIN_GROUPS", "check_sparse_coder", "check_subject", "tiny_corpus", "tiny_subject", "tiny_tokenizer"]
