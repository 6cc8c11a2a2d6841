"""A tokenizer as the subjects use it: token ids with character offsets, what stands at the ends of a row, readable tokens.

Works on a private copy of the fast tokenizer without truncation and padding. ESM's tokenizer has no fast form and is rebuilt as one.
Refuses: other tokenizers without a fast form, a BOS or a chat template that the tokenizer does not have.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparselight.errors import MissingExtraError, SubjectError

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a single byte in SentencePiece vocabularies
WORD_MARK = "\u2581"  # SentencePiece's mark for a space
PLACEHOLDER = "XqzX"  # stands for the message while a chat template is read
TEMPLATE_DAY = "26 Jul 2024"  # for templates that write a date and let it be given: rows must not depend on the day


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids at the ends of every row."""

    start: tuple[int, ...]
    end: tuple[int, ...]


class Vocabulary:
    """Text to token ids and offsets, and token ids to text, for one tokenizer."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self.backend = fast_backend(tokenizer)
        self.backend.no_truncation()
        self.backend.no_padding()
        self._decoder = repr(self.backend.decoder)
        self._continues = getattr(self.backend.model, "continuing_subword_prefix", None) if type(self.backend.model).__name__ == "WordPiece" else None
        self.bos_id: int | None = tokenizer.bos_token_id
        self.mask_id: int | None = getattr(tokenizer, "mask_token_id", None)
        self.pad_id: int = tokenizer.pad_token_id or 0
        self.stop_ids = {token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None}
        self.special_ids = _special_ids(tokenizer)

    def fingerprint(self, policy: str) -> str:
        """SHA-256 over the tokenizer, the ids that stand for BOS and specials, and the token policy."""
        content = [self.backend.to_str(), str(self.bos_id), str(sorted(self.special_ids)), policy]
        return hashlib.sha256("\0".join(content).encode()).hexdigest()

    def own_frame(self) -> Frame:
        """What the tokenizer itself puts round a text."""
        for text in ("a", "A", "the", "1"):
            whole, body = (list(self._tokenizer(text, add_special_tokens=specials)["input_ids"]) for specials in (True, False))
            at = next((at for at in range(len(whole)) if body and whole[at:at + len(body)] == body), None)
            if at is not None:
                return Frame(tuple(whole[:at]), tuple(whole[at + len(body):]))
        return Frame((), ())

    def bos_frame(self, required: bool) -> Frame:
        """BOS alone.

        Raises:
            SubjectError: when it is required and the tokenizer has none.
        """
        if self.bos_id is None and required:
            raise SubjectError(asked="start every row with BOS (subject.bos = 'always')", why="the tokenizer has no BOS token",
                               instead="set subject.bos = 'auto'")
        return Frame(() if self.bos_id is None else (self.bos_id,), ())

    def chat(self) -> tuple[str, str]:
        """What the chat template writes before and after a user's message, the start of the answer included.

        Raises:
            SubjectError: when there is no template, it does not show the message as it is, or it writes the date of the day.
        """
        asked = "show examples in the chat template (subject.chat_template)"
        template, instead = getattr(self._tokenizer, "chat_template", None), "write the conversation into the corpus, with subject.bos = 'never'"
        if not template:
            raise SubjectError(asked=asked, why="the tokenizer has none", instead="set subject.chat_template = false")
        if "strftime_now" in str(template) and "date_string" not in str(template):
            raise SubjectError(asked=asked, why="it writes the date of the day, so that rows would differ from day to day", instead=instead)
        try:
            shown = self._tokenizer.apply_chat_template([{"role": "user", "content": PLACEHOLDER}], tokenize=False, add_generation_prompt=True,
                                                        date_string=TEMPLATE_DAY)
        except Exception as err:  # templates are programs of their authors
            raise SubjectError(asked=asked, why=f"the template refuses a single user message ({str(err).splitlines()[0]})",
                               instead=instead) from None
        before, found, after = shown.partition(PLACEHOLDER)
        if not found:
            raise SubjectError(asked=asked, why="the template changes the message", instead=instead)
        return before, after

    def token_text(self, token_id: int) -> str:
        """The token as text: its leading space is a space, bytes that are no UTF-8 are written as in b'\\xNN'."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            return f"<unused {token_id}>"  # models pad their vocabulary beyond the tokenizer's
        if token_id in self.special_ids or token_id == self.mask_id:
            return token
        byte = BYTE_TOKEN.fullmatch(token)
        if byte:
            return bytes([int(byte[1], 16)]).decode("utf-8", errors="backslashreplace")
        if self._continues:
            return token.removeprefix(self._continues) if token.startswith(self._continues) else f" {token}"
        if "ByteLevel" in self._decoder and all(character in BYTE_OF for character in token):
            return bytes(BYTE_OF[character] for character in token).decode("utf-8", errors="backslashreplace")
        return token.replace(WORD_MARK, " ")

    def continuation(self, ids: Sequence[int], n_prompt: int) -> str:
        """Text of ids[n_prompt:] as it reads after the ids before it."""
        prompt, whole = (self.backend.decode(list(part), skip_special_tokens=True) for part in (ids[:n_prompt], ids))
        return whole[len(prompt):]


def fast_backend(tokenizer: Any) -> Any:
    """A copy of the tokenizer's Rust half, which gives character offsets.

    Raises:
        MissingExtraError: when tokenizers is not installed.
        SubjectError: when there is no such half and none can be built.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtraError(package="tokenizers", extra="text", asked="split text into tokens") from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        return Tokenizer.from_str(backend.to_str())
    if type(tokenizer).__name__ == "EsmTokenizer":
        return _esm_backend(tokenizer)
    raise SubjectError(asked="split text into tokens with character offsets", why=f"{type(tokenizer).__name__} is no fast tokenizer",
                       instead="use a model that has a tokenizer.json")


def _esm_backend(tokenizer: Any) -> Any:
    """ESM's rule: cut out every entry of the vocabulary, whatever stands between them is one unknown token."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

    vocabulary = tokenizer.get_vocab()
    specials = [AddedToken(token, special=True, normalized=False) for token in tokenizer.all_special_tokens]
    pieces = "|".join(re.escape(token) for token in sorted(vocabulary, key=len, reverse=True))
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=tokenizer.unk_token))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(pieces), "isolated")])
    backend.add_special_tokens(specials)
    return backend


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """Special tokens that stand for nothing in a text. An unknown word and a masked one do stand for something."""
    ends, in_text = ({getattr(tokenizer, f"{name}_token_id", None) for name in names} for names in (("bos", "eos", "pad", "cls", "sep"), ("unk", "mask")))
    return frozenset(tokenizer.all_special_ids) - (in_text - ends)


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins of bytes in byte-level BPE vocabularies (GPT-2): printable Latin-1 is itself, the rest follows U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + number): byte for number, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
