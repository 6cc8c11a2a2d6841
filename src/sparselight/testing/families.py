"""A tiny random model of each family that has standard site names, made from a config on the spot: what the site tables are tested on.

Weights are drawn larger than at the start of training, so that no part of a layer is too small to be seen in its sums.
"""

from collections.abc import Callable
from typing import Any

import torch

from sparselight.subjects import CausalLM, Encoder, HuggingFaceSubject, MaskedLM, TokenSettings
from sparselight.testing.tiny import tiny_esm_tokenizer, tiny_tokenizer, tiny_wordpiece_tokenizer

N_VOCABULARY = 400
D, N_LAYERS, CONTEXT_TOKENS = 16, 2, 64
DECODER = {
    "vocab_size": N_VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS, "hidden_size": D, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2,
    "intermediate_size": 2 * D, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}
GROUPED = {**DECODER, "num_key_value_heads": 1, "head_dim": 8}
BERT = {**DECODER, "max_position_embeddings": CONTEXT_TOKENS + 2, "bos_token_id": None, "eos_token_id": None}
GPT2 = {"vocab_size": N_VOCABULARY, "n_positions": CONTEXT_TOKENS, "n_embd": D, "n_layer": N_LAYERS, "n_head": 2, "initializer_range": 0.2,
        "bos_token_id": 0, "eos_token_id": 0}

# Family to kind, model class, config class, settings of the config.
FAMILY_MODELS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama": ("causal_lm", "LlamaForCausalLM", "LlamaConfig", DECODER),
    "mistral": ("causal_lm", "MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": 8}),
    "qwen2": ("causal_lm", "Qwen2ForCausalLM", "Qwen2Config", {**DECODER, "num_key_value_heads": 1}),
    "qwen3": ("causal_lm", "Qwen3ForCausalLM", "Qwen3Config", GROUPED),
    "gemma": ("causal_lm", "GemmaForCausalLM", "GemmaConfig", GROUPED),
    "gemma2": ("causal_lm", "Gemma2ForCausalLM", "Gemma2Config", {**GROUPED, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("causal_lm", "Gemma3ForCausalLM", "Gemma3TextConfig", {**GROUPED, "sliding_window": 8, "query_pre_attn_scalar": 8}),
    "olmo2": ("causal_lm", "Olmo2ForCausalLM", "Olmo2Config", DECODER),
    "phi": ("causal_lm", "PhiForCausalLM", "PhiConfig", DECODER),
    "phi3": ("causal_lm", "Phi3ForCausalLM", "Phi3Config", DECODER),
    "gpt2": ("causal_lm", "GPT2LMHeadModel", "GPT2Config", GPT2),
    "gptj": ("causal_lm", "GPTJForCausalLM", "GPTJConfig", {**GPT2, "rotary_dim": 4}),
    "bloom": ("causal_lm", "BloomForCausalLM", "BloomConfig", {"vocab_size": N_VOCABULARY, "hidden_size": D, "n_layer": N_LAYERS, "n_head": 2,
                                                                "initializer_range": 0.2}),
    "falcon": ("causal_lm", "FalconForCausalLM", "FalconConfig", {**DECODER, "new_decoder_architecture": False, "parallel_attn": True, "multi_query": True}),
    "gpt_neox": ("causal_lm", "GPTNeoXForCausalLM", "GPTNeoXConfig", DECODER),
    "gpt_neox_sequential": ("causal_lm", "GPTNeoXForCausalLM", "GPTNeoXConfig", {**DECODER, "use_parallel_residual": False}),
    "opt": ("causal_lm", "OPTForCausalLM", "OPTConfig", {
        "vocab_size": N_VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS, "hidden_size": D, "word_embed_proj_dim": D, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2, "ffn_dim": 2 * D, "pad_token_id": 1, "init_std": 0.2}),
    "opt_post_norm": ("causal_lm", "OPTForCausalLM", "OPTConfig", {
        "vocab_size": N_VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS, "hidden_size": D, "word_embed_proj_dim": D, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2, "ffn_dim": 2 * D, "pad_token_id": 1, "init_std": 0.2, "do_layer_norm_before": False}),
    "bert": ("masked_lm", "BertForMaskedLM", "BertConfig", BERT),
    "roberta": ("masked_lm", "RobertaForMaskedLM", "RobertaConfig", BERT),
    "electra": ("masked_lm", "ElectraForMaskedLM", "ElectraConfig", {**BERT, "embedding_size": D}),
    "mpnet": ("masked_lm", "MPNetForMaskedLM", "MPNetConfig", BERT),
    "distilbert": ("masked_lm", "DistilBertForMaskedLM", "DistilBertConfig", {
        "vocab_size": N_VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS, "dim": D, "n_layers": N_LAYERS, "n_heads": 2, "hidden_dim": 2 * D,
        "initializer_range": 0.2}),
    "modernbert": ("masked_lm", "ModernBertForMaskedLM", "ModernBertConfig", {**BERT, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}),
    "esm": ("masked_lm", "EsmForMaskedLM", "EsmConfig", {**BERT, "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True,
                                                          "position_embedding_type": "rotary", "emb_layer_norm_before": False}),
    "bert_encoder": ("encoder", "BertModel", "BertConfig", BERT),
    "t5_encoder": ("encoder", "T5EncoderModel", "T5Config", {"vocab_size": N_VOCABULARY, "d_model": D, "d_kv": 8, "d_ff": 2 * D, "num_layers": N_LAYERS,
                                                             "num_heads": 2, "feed_forward_proj": "gated-gelu"}),
}


def tiny_family(family: str, settings: TokenSettings | None = None, seed: int = 0) -> HuggingFaceSubject:
    """A random model of two layers and width 16, on the CPU.

    Args:
        family: a key of FAMILY_MODELS.
        settings: what it sees of a text; rows are of at most 64 tokens.
        seed: of the weights.
    """
    kind = FAMILY_MODELS[family][0]
    make: Callable[..., HuggingFaceSubject] = {"causal_lm": CausalLM, "masked_lm": MaskedLM, "encoder": Encoder}[kind]
    return make(tiny_model(family, seed), family_tokenizer(family), family, None, settings or TokenSettings(context_tokens=CONTEXT_TOKENS))


def tiny_model(family: str, seed: int = 0) -> Any:
    """The bare transformers model of a family."""
    import transformers

    _, model, config, settings = FAMILY_MODELS[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, model)(getattr(transformers, config)(**settings)).float()


def family_tokenizer(family: str) -> Any:
    """A tokenizer of the kind that the family has: byte-level BPE, WordPiece with [CLS] and [SEP], or amino acids."""
    if family == "esm":
        return tiny_esm_tokenizer()
    return tiny_tokenizer(N_VOCABULARY) if FAMILY_MODELS[family][0] == "causal_lm" else tiny_wordpiece_tokenizer(N_VOCABULARY)
