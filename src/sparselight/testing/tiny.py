"""A tiny subject and a tiny corpus, made on the spot: no files, no network, the same on every call.

The subject is a Llama with random weights and a byte-level BPE tokenizer trained on the corpus of this file, so that its tokens
are words and word pieces of that corpus. Its predictions mean nothing; its interfaces are those of a real subject.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparselight.corpus import ListCorpus
from sparselight.corpus.python_source import module_name, token_class_spans
from sparselight.protocols import Example
from sparselight.subjects import CausalLM

BOS = "<|bos|>"
DOMAIN_GROUPS = ("security/cipher.py", "security/digest.py")
GENERAL_GROUPS = ("files/reader.py", "files/paths.py", "shapes/circle.py", "shapes/square.py", "lists/sorting.py", "lists/search.py")
WORDS = {
    "security": ("key", "cipher", "secret", "digest", "nonce", "signature", "certificate", "encrypt"),
    "files": ("path", "folder", "reader", "line", "handle", "buffer", "suffix", "encoding"),
    "shapes": ("circle", "radius", "width", "height", "area", "corner", "side", "center"),
    "lists": ("items", "value", "left", "right", "index", "order", "pivot", "count"),
}
ESM_VOCABULARY = (
    "<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K", "Q", "N", "F", "Y", "M", "H", "W", "C", "X", "B", "U",
    "Z", "O", ".", "-", "<null_1>", "<mask>",
)
LINES = (
    "def make_{0}({1}, {2}=None):\n    return {1} + {3}\n",
    "class {0}:\n    # the {1} of a {2}\n    {3} = {4}\n",
    "for {0} in {1}:\n    if {0} > {4}:\n        print('{2} and {3}', {0})\n",
    "{0} = {1}[{4}] * {2}\n",
    "while {0} != {4}:\n    {0} = {1}({0}, '{3}')\n",
)


def tiny_corpus(n: int = 32, seed: int = 0) -> ListCorpus:
    """`n` short Python-like examples in 8 groups, two of them of the domain `security`; labels and `token_class` spans are filled in."""
    groups = GENERAL_GROUPS + DOMAIN_GROUPS
    examples = []
    for number in range(n):
        group, rng = groups[number % len(groups)], np.random.default_rng([seed, number])
        package = group.split("/")[0]
        text = "".join(_line(package, rng) for _ in range(int(rng.integers(2, 6))))
        labels = {"package": package, "module": module_name(group)}
        examples.append(Example(f"{group}#{number // len(groups)}", text, group, labels, tuple(token_class_spans(text))))
    return ListCorpus(examples, "tiny_corpus")


def tiny_subject(seed: int = 0, d: int = 32, n_layers: int = 3, vocabulary: int = 400, context_tokens: int = 64) -> CausalLM:
    """A Llama with random weights, on the CPU.

    Args:
        seed: of the weights.
        d: width of the residual stream; a multiple of 8.
        vocabulary: tokens in all; 257 (bytes and BOS) or more.
        context_tokens: longest row; examples of `tiny_corpus` that are longer take a second row.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=d, intermediate_size=2 * d, num_hidden_layers=n_layers, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=max(context_tokens, 512), bos_token_id=0, eos_token_id=0, initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return CausalLM(model, tokenizer, f"tiny-{seed}-{d}x{n_layers}", context_tokens)


@functools.cache
def tiny_tokenizer(vocabulary: int = 400) -> Any:
    """A byte-level BPE tokenizer trained on `tiny_corpus`, BOS included."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([example.text for example in tiny_corpus(200, seed=1)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS)


@functools.cache
def tiny_wordpiece_tokenizer(vocabulary: int = 400) -> Any:
    """A lower-casing WordPiece tokenizer trained on `tiny_corpus` that puts [CLS] and [SEP] round a text, like BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator([example.text for example in tiny_corpus(200, seed=1)], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_esm_tokenizer() -> Any:
    """ESM-2's tokenizer: amino acids between <cls> and <eos>."""
    import tempfile

    from transformers import EsmTokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(ESM_VOCABULARY), encoding="utf-8")
        return EsmTokenizer(str(path))


def tiny_proteins(n: int = 8, seed: int = 0) -> ListCorpus:
    """`n` random amino acid sequences of 5 to 90 residues."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), int(rng.integers(5, 90)))) for _ in range(n)]
    return ListCorpus([Example(f"protein{number}", text, f"family{number // 2}") for number, text in enumerate(texts)], "tiny_proteins")


def _line(package: str, rng: np.random.Generator) -> str:
    words = rng.choice(WORDS[package], 4, replace=False).tolist()
    return LINES[int(rng.integers(len(LINES)))].format(*words, int(rng.integers(10, 1000)))
