"""Make a Hugging Face folder of stories260K, a real Llama of 260,000 parameters: `python scripts/convert_stories260k.py IN OUT`.

IN holds stories260K.bin and tok512.bin, the files of llama2.c (Karpathy's tinyllamas). OUT becomes a folder with config.json,
model.safetensors and tokenizer.json that `load_subject(OUT)` reads. Refuses: files of another format or of other sizes.
"""

import argparse
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sparselight.errors import SparselightError, SubjectError

HEADER = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
UNK, BOS, EOS = "<unk>", "<s>", "</s>"  # ids 0, 1, 2; then 256 single bytes
N_BYTES, WORD_MARK = 256, "\u2581"


def read_checkpoint(path: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """The header and the weights, stacked over layers, of a llama2.c checkpoint (version 0: no magic number, fp32).

    Raises:
        SubjectError: when the file's size is not what its header says.
    """
    content = path.read_bytes()
    head = dict(zip(HEADER, struct.unpack_from("7i", content), strict=True))
    head["tied"], head["vocab_size"] = int(head["vocab_size"] > 0), abs(head["vocab_size"])  # a negative vocabulary marks an output layer of its own
    dim, hidden, layers, width = head["dim"], head["hidden_dim"], head["n_layers"], head["dim"] // head["n_heads"]
    shapes = {
        "embed": (head["vocab_size"], dim), "attention_norm": (layers, dim), "wq": (layers, dim, dim), "wk": (layers, head["n_kv_heads"] * width, dim),
        "wv": (layers, head["n_kv_heads"] * width, dim), "wo": (layers, dim, dim), "feed_forward_norm": (layers, dim), "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden), "w3": (layers, hidden, dim), "final_norm": (dim,), "rotary": (2, head["seq_len"], width // 2),
        **({} if head["tied"] else {"output": (head["vocab_size"], dim)}),
    }
    values = np.frombuffer(content, dtype="<f4", offset=28)
    if len(values) != sum(map(np.prod, shapes.values())):
        raise SubjectError(asked=f"read the checkpoint {path}", why="its size is not the one that its header gives",
                           instead="give stories260K.bin as it was downloaded")
    ends = np.cumsum([0, *map(np.prod, shapes.values())])
    return head, {name: values[start:end].reshape(shape) for (name, shape), start, end in zip(shapes.items(), ends, ends[1:], strict=False)}


def read_vocabulary(path: Path, n: int) -> list[tuple[str, float]]:
    """Pieces and scores of a llama2.c tokenizer file."""
    content, at = path.read_bytes(), 4  # the first number is the longest piece's length
    pieces = []
    for _ in range(n):
        score, length = struct.unpack_from("<fi", content, at)
        pieces.append((content[at + 8:at + 8 + length].decode("utf-8"), score))
        at += 8 + length
    return pieces


def make_model(head: dict[str, int], weights: dict[str, np.ndarray]) -> LlamaForCausalLM:
    """The same network as a Hugging Face Llama."""
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=head["vocab_size"], hidden_size=head["dim"], intermediate_size=head["hidden_dim"], num_hidden_layers=head["n_layers"],
        num_attention_heads=head["n_heads"], num_key_value_heads=head["n_kv_heads"], max_position_embeddings=head["seq_len"], rms_norm_eps=1e-5,
        tie_word_embeddings=bool(head["tied"]), bos_token_id=1, eos_token_id=2,
    ))
    state: dict[str, Any] = {"model.embed_tokens.weight": weights["embed"], "model.norm.weight": weights["final_norm"],
                             "lm_head.weight": weights["embed"] if head["tied"] else weights["output"]}
    names = {"input_layernorm": "attention_norm", "self_attn.v_proj": "wv", "self_attn.o_proj": "wo", "post_attention_layernorm": "feed_forward_norm",
             "mlp.gate_proj": "w1", "mlp.down_proj": "w2", "mlp.up_proj": "w3"}
    for layer in range(head["n_layers"]):
        state |= {f"model.layers.{layer}.{ours}.weight": weights[theirs][layer] for ours, theirs in names.items()}
        state[f"model.layers.{layer}.self_attn.q_proj.weight"] = halves(weights["wq"][layer], head["n_heads"])
        state[f"model.layers.{layer}.self_attn.k_proj.weight"] = halves(weights["wk"][layer], head["n_kv_heads"])
    model.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    return model


def halves(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a query or key projection from llama2.c's order, where neighbors rotate together, to one where the two halves of a head do."""
    return weight.reshape(n_heads, -1, 2, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


def make_tokenizer(pieces: list[tuple[str, float]]) -> PreTrainedTokenizerFast:
    """The same byte-pair merges as a fast tokenizer: the pair whose merged piece has the highest score goes first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = [UNK, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(N_BYTES)), *(piece.replace(" ", WORD_MARK) for piece, _ in pieces[3 + N_BYTES:])]
    ids = {token: number for number, token in enumerate(tokens)}
    ranked = sorted(tokens[3 + N_BYTES:], key=lambda token: -pieces[ids[token]][1])
    merges = [(token[:at], token[at:]) for token in ranked for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=UNK, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(WORD_MARK), normalizers.Replace(" ", WORD_MARK)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(WORD_MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS)


def convert(source: Path, out: Path) -> None:
    """Write the Hugging Face folder.

    Raises:
        SubjectError: when a file is missing or is not what it should be.
    """
    for name in ("stories260K.bin", "tok512.bin"):
        if not (source / name).is_file():
            raise SubjectError(asked=f"convert {source}", why=f"it has no {name}", instead="give the folder with llama2.c's stories260K.bin and tok512.bin")
    head, weights = read_checkpoint(source / "stories260K.bin")
    make_model(head, weights).save_pretrained(out, safe_serialization=True)
    make_tokenizer(read_vocabulary(source / "tok512.bin", head["vocab_size"])).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with stories260K.bin and tok512.bin")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    try:
        convert(arguments.source, arguments.out)
    except SparselightError as err:
        sys.exit(str(err))


if __name__ == "__main__":
    main()
