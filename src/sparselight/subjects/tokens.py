"""From text to rows of token ids by a token policy, and from token ids to text that people can read.

Owns: the token policy's application (BOS before each row, cutting long examples into several rows, what counts) and character
offsets. Works on a private copy of the fast tokenizer without truncation and padding. Refuses: tokenizers without a fast form.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparselight.errors import MissingExtraError, SubjectError
from sparselight.protocols import Batch, Example
from sparselight.records import TokenPolicy

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a single byte in SentencePiece vocabularies
WORD_MARK = "\u2581"  # SentencePiece's mark for a space


class RowTokenizer:
    """Text to rows and back, for one tokenizer and one token policy."""

    def __init__(self, tokenizer: Any, context_tokens: int):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtraError(package="tokenizers", extra="text", asked="split text into tokens") from None
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise SubjectError(asked="split text into tokens with character offsets", why=f"{type(tokenizer).__name__} is no fast tokenizer",
                               instead="use a model that has a tokenizer.json")
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._decoder = repr(self._backend.decoder)
        self.bos_id: int | None = tokenizer.bos_token_id
        self.stop_ids = {token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None}
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self._pad_id = tokenizer.pad_token_id or 0
        self.policy = TokenPolicy(prepend_bos=self.bos_id is not None, context_tokens=context_tokens)

    def fingerprint(self) -> str:
        """SHA-256 over the tokenizer, the ids that stand for BOS and specials, and the token policy."""
        content = [self._backend.to_str(), str(self.bos_id), str(sorted(self.special_ids)), self.policy.model_dump_json()]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()

    def n_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text count."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [sum(token not in self.special_ids for token in encoding.ids) for encoding in encodings]

    def ids(self, text: str) -> list[int]:
        """One unbroken row of token ids, BOS first where the policy says so."""
        ids = list(self._backend.encode(text, add_special_tokens=False).ids)
        return ids if self.bos_id is None else [self.bos_id, *ids]

    def counts(self, ids: Sequence[int]) -> Bool[Tensor, "row position"]:
        """Which tokens of one row count: all but specials."""
        return torch.tensor([[token not in self.special_ids for token in ids]])

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows of all examples, in order, padded on the right to one length."""
        n_body = self.policy.context_tokens - self.policy.prepend_bos
        rows: list[list[int]] = []
        columns: dict[str, list[np.ndarray]] = {name: [] for name in ("example", "position", "token_id", "char_start", "char_end")}
        for number, encoding in enumerate(self._backend.encode_batch([example.text for example in examples], add_special_tokens=False)):
            ids = np.asarray(encoding.ids, dtype=np.int64)
            offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            counts = ~np.isin(ids, list(self.special_ids))
            rows += [([] if self.bos_id is None else [self.bos_id]) + ids[start:start + n_body].tolist() for start in range(0, len(ids), n_body)]
            n_counted = int(counts.sum())
            for name, values in {"example": np.full(n_counted, number), "position": np.arange(n_counted), "token_id": ids[counts],
                                 "char_start": offsets[counts, 0], "char_end": offsets[counts, 1]}.items():
                columns[name].append(values)
        joined = {name: torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts])) for name, parts in columns.items()}
        input_ids, attention_mask = self._pad(rows)
        counted = attention_mask & ~torch.isin(input_ids, torch.tensor(sorted(self.special_ids), dtype=torch.int64))
        assert int(counted.sum()) == len(joined["token_id"])
        return Batch(input_ids, attention_mask, counted, **joined)

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "row position"], Bool[Tensor, "row position"]]:
        width = max((len(row) for row in rows), default=0)
        input_ids = torch.full((len(rows), width), self._pad_id, dtype=torch.int64)
        attention_mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for number, row in enumerate(rows):
            input_ids[number, :len(row)] = torch.tensor(row)
            attention_mask[number, :len(row)] = True
        return input_ids, attention_mask

    def token_text(self, token_id: int) -> str:
        """The token as text: its leading space is a space, bytes that are no UTF-8 are written as in b'\\xNN'."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            return f"<unused {token_id}>"  # models pad their vocabulary beyond the tokenizer's
        if token_id in self.special_ids:
            return token
        byte = BYTE_TOKEN.fullmatch(token)
        if byte:
            return bytes([int(byte[1], 16)]).decode("utf-8", errors="backslashreplace")
        if "ByteLevel" in self._decoder and all(character in BYTE_OF for character in token):
            return bytes(BYTE_OF[character] for character in token).decode("utf-8", errors="backslashreplace")
        return token.replace(WORD_MARK, " ")

    def continuation(self, ids: Sequence[int], n_prompt: int) -> str:
        """Text of ids[n_prompt:] as it reads after the ids before it."""
        prompt, whole = (self._backend.decode(list(part), skip_special_tokens=True) for part in (ids[:n_prompt], ids))
        return whole[len(prompt):]


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of bytes in byte-level BPE vocabularies (GPT-2): printable Latin-1 is itself, the rest follows U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
