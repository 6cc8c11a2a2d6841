"""From texts to the rows of a batch by a token policy.

Owns: the token policy made from settings and tokenizer, windows over long examples, the special tokens and the chat template round each
row, packing, padding, and which positions count. Every counted token of an example stands in exactly one row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, Example
from sparselight.records import TokenPolicy
from sparselight.subjects.config import TokenSettings
from sparselight.subjects.tokens import Frame, Vocabulary

Ids = Int[np.ndarray, " token"]


@dataclass(frozen=True, slots=True)
class Text:
    """One example's tokens. `before` and `after` are the chat template's."""

    ids: Ids
    offsets: Int[np.ndarray, "token 2"]
    before: Ids
    after: Ids


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one row shows of one example: all its token ids, which of them count, and what of the text those cover."""

    example: int
    ids: Ids
    counts: Bool[np.ndarray, " token"]
    offsets: Int[np.ndarray, "token 2"]
    inputs: Mapping[str, Tensor] | None = None
    """What the model is given beside the ids: pixels and the like."""
    shown: tuple[str, ...] = ()
    """Of what those are made: hashes of images."""


class RowBuilder:
    """Texts to batches, for one tokenizer and one token policy."""

    def __init__(self, tokenizer: Any, settings: TokenSettings, is_causal: bool, pooling: Any = "none", unit_pooled: bool = False):
        self.vocabulary = Vocabulary(tokenizer)
        self.frame = self._make_frame(settings, is_causal)
        self.policy = self._make_policy(settings, pooling, unit_pooled)
        self.check_room()

    def fingerprint(self) -> str:
        return self.vocabulary.fingerprint(self.policy.canonical())

    def check_room(self) -> None:
        """Refuse rows without room for tokens of an example."""
        next(self._windows(1, self.policy.template_tokens), None)

    def n_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text count."""
        if self.policy.pooling != "none":
            return [1] * len(texts)
        if self.policy.chat_prefix or self.policy.chat_suffix:
            return [sum(int(stretch.counts.sum()) for stretch in self._stretches(0, text)) for text in self._texts(texts)]
        ids = [np.asarray(encoding.ids, dtype=np.int64) for encoding in self.vocabulary.backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        counts = self._count(np.concatenate([np.zeros(0, np.int64), *ids]))
        return [self._n_counted(part) for part in np.split(counts, np.cumsum(list(map(len, ids)))[:-1])] if ids else []

    def prompt(self, text: str) -> Stretch:
        """One unbroken row to be continued, without what ends a row."""
        body = next(self._texts([text]))
        start = np.asarray(self.frame.start, np.int64)
        own = self._count(body.ids)
        own[:self.policy.skip_start_tokens] = False
        around = [np.zeros(len(part), dtype=bool) for part in (body.before, body.after)]
        n_left, n_right = len(start) + len(body.before), len(body.after)
        end = int(body.offsets[-1, 1]) if len(body.offsets) else 0
        return Stretch(
            0, np.concatenate([start, body.before, body.ids, body.after]),
            np.concatenate([np.full(len(start), self.policy.count_specials), around[0], own, around[1]]),
            np.concatenate([np.zeros((n_left, 2), np.int64), body.offsets, np.full((n_right, 2), end)]),
        )

    def counts_token(self, token_id: int) -> bool:
        """Whether a generated token counts."""
        return self.policy.count_specials or token_id not in self.vocabulary.special_ids

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows of all examples, in order, padded to one length."""
        stretches = [stretch for number, text in enumerate(self._texts([example.text for example in examples])) for stretch in self._stretches(number, text)]
        if self.policy.pooling != "none":
            stretches = [self._as_one_token(stretch, examples[stretch.example]) for stretch in stretches]
        return self._batch_of(stretches)

    def _batch_of(self, stretches: Sequence[Stretch]) -> Batch:
        """A batch of stretches whose examples ascend."""
        example, ids, offsets = (np.concatenate([empty, *parts]) for empty, parts in (
            (np.zeros(0, np.int64), [np.full(int(stretch.counts.sum()), stretch.example) for stretch in stretches]),
            (np.zeros(0, np.int64), [stretch.ids[stretch.counts] for stretch in stretches]),
            (np.zeros((0, 2), np.int64), [stretch.offsets[stretch.counts] for stretch in stretches]),
        ))
        first = np.searchsorted(example, example)  # examples ascend, so this is where each one begins
        columns = {"example": example, "position": np.arange(len(example)) - first, "token_id": ids, "char_start": offsets[:, 0], "char_end": offsets[:, 1]}
        joined: dict[str, Any] = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
        input_ids, attention_mask, counts, segment = self._lay_out(self._rows(stretches))
        return Batch(input_ids, attention_mask, counts, segment=segment if self.policy.pack else None, **joined)

    def _make_frame(self, settings: TokenSettings, is_causal: bool) -> Frame:
        if settings.bos == "never":
            return Frame((), ())
        if is_causal:
            return self.vocabulary.bos_frame(settings.bos == "always")
        frame = self.vocabulary.own_frame()
        return frame if settings.bos == "auto" or frame.start else self.vocabulary.bos_frame(required=True)

    def _make_policy(self, settings: TokenSettings, pooling: Any, unit_pooled: bool) -> TokenPolicy:
        prefix, suffix = self.vocabulary.chat() if settings.chat_template else ("", "")
        n_template = 0
        if prefix or suffix:
            bos = self.vocabulary.backend.id_to_token(self.vocabulary.bos_id) if self.vocabulary.bos_id is not None else None
            if bos and prefix.startswith(bos) and self.frame.start:
                prefix = prefix.removeprefix(bos)  # the row has it already
            n_template = len(self._encode(f"{prefix}a{suffix}")) - len(self._encode("a"))
        n_more = max(len(self.frame.start) - 1, 0) + max(len(self.frame.end) - 1, 0)
        return TokenPolicy(
            prepend_bos=bool(self.frame.start), append_eos=bool(self.frame.end), context_tokens=settings.context_tokens,
            count_specials=settings.count_specials, padding_side=settings.padding_side, long_examples="cut" if pooling != "none" else settings.long_examples,
            overlap_tokens=settings.overlap_tokens, skip_start_tokens=settings.skip_start_tokens, pack=settings.pack, chat_prefix=prefix, chat_suffix=suffix,
            template_tokens=n_template + n_more, pooling=pooling, unit_pooled=unit_pooled, max_norms=dict(settings.max_norms),
        )

    def _encode(self, text: str) -> list[int]:
        return list(self.vocabulary.backend.encode(text, add_special_tokens=False).ids)

    def _texts(self, texts: Sequence[str]) -> Iterator[Text]:
        prefix, suffix = self.policy.chat_prefix, self.policy.chat_suffix
        nothing = np.zeros(0, np.int64)
        encodings = self.vocabulary.backend.encode_batch([f"{prefix}{text}{suffix}" for text in texts], add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.asarray(encoding.ids, dtype=np.int64)
            offsets = np.fromiter(chain.from_iterable(encoding.offsets), np.int64, 2 * len(ids)).reshape(-1, 2)
            if not (prefix or suffix):
                yield Text(ids, offsets, nothing, nothing)
                continue
            own = (offsets[:, 1] > len(prefix)) & (offsets[:, 0] < len(prefix) + len(text))
            first, last = (int(own.argmax()), len(own) - int(own[::-1].argmax())) if own.any() else (int((offsets[:, 1] <= len(prefix)).sum()),) * 2
            yield Text(ids[first:last], (offsets[first:last] - len(prefix)).clip(0, len(text)), ids[:first], ids[last:])

    def _windows(self, n: int, n_template: int = 0) -> Iterator[tuple[int, int, int]]:
        """Start and end of each row's part of an example of n tokens, and how many tokens at its start do not count."""
        policy = self.policy
        room = policy.context_tokens - len(self.frame.start) - len(self.frame.end) - n_template
        if room <= policy.overlap_tokens:
            raise SubjectError(asked=f"run rows of subject.context_tokens = {policy.context_tokens}",
                               why="special tokens, chat template and overlap leave no room for new tokens", instead="set subject.context_tokens to more")
        start, uncounted = 0, policy.skip_start_tokens
        while start < n or (start == 0 and policy.pooling != "none"):
            end = min(start + room, n)
            yield start, end, min(uncounted, end - start)
            if end == n or policy.long_examples == "cut":
                return
            start, uncounted = end - policy.overlap_tokens, max(policy.overlap_tokens, policy.skip_start_tokens)

    def _count(self, ids: Ids) -> Bool[np.ndarray, " token"]:
        return np.ones(len(ids), dtype=bool) if self.policy.count_specials else ~np.isin(ids, list(self.vocabulary.special_ids))

    def _n_counted(self, counts: Bool[np.ndarray, " token"]) -> int:
        n_ends = (len(self.frame.start) + len(self.frame.end)) * self.policy.count_specials
        return sum(int(counts[start + uncounted:end].sum()) + n_ends for start, end, uncounted in self._windows(len(counts)))

    def _stretches(self, number: int, text: Text) -> Iterator[Stretch]:
        start_ids, end_ids = (np.asarray(part, np.int64) for part in (self.frame.start, self.frame.end))
        counts = self._count(text.ids)
        for start, end, uncounted in self._windows(len(text.ids), len(text.before) + len(text.after)):
            body = counts[start:end].copy()
            body[:uncounted] = False
            ends = [np.full(len(part), self.policy.count_specials) for part in (start_ids, end_ids)]
            template = [np.zeros(len(part), dtype=bool) for part in (text.before, text.after)]
            offsets = text.offsets[start:end]
            left, right = (offsets[0, 0], offsets[-1, 1]) if len(offsets) else (0, 0)
            n_left, n_right = len(start_ids) + len(text.before), len(end_ids) + len(text.after)
            yield Stretch(
                number, np.concatenate([start_ids, text.before, text.ids[start:end], text.after, end_ids]),
                np.concatenate([ends[0], template[0], body, template[1], ends[1]]),
                np.concatenate([np.full((n_left, 2), left), offsets, np.full((n_right, 2), right)]),
            )

    def _as_one_token(self, stretch: Stretch, example: Example) -> Stretch:
        """The whole row as one token that stands at its first position."""
        if not len(stretch.ids):
            raise SubjectError(asked=f"pool the example {example.id!r}", why="it has no token", instead="leave empty examples out of the corpus")
        counts = np.zeros(len(stretch.ids), dtype=bool)
        counts[0] = True
        offsets = stretch.offsets.copy()
        offsets[0] = (0, stretch.offsets[-1, 1])
        return Stretch(stretch.example, stretch.ids, counts, offsets)

    def _rows(self, stretches: Sequence[Stretch]) -> list[list[Stretch]]:
        """One stretch a row, or as many, in order, as the row has room for."""
        rows: list[list[Stretch]] = []
        room = 0
        for stretch in stretches:
            if not (self.policy.pack and rows and len(stretch.ids) <= room):
                rows.append([])
                room = self.policy.context_tokens
            rows[-1].append(stretch)
            room -= len(stretch.ids)
        return rows

    def _lay_out(self, rows: Sequence[Sequence[Stretch]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        lengths = [sum(len(stretch.ids) for stretch in row) for row in rows]
        width = max(lengths, default=0)
        ids = np.full((len(rows), width), self.vocabulary.pad_id, dtype=np.int64)
        counts = np.zeros((len(rows), width), dtype=bool)
        segment = np.full((len(rows), width), -1, dtype=np.int64)
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            at = width - length if self.policy.padding_side == "left" else 0
            for index, stretch in enumerate(row):
                place = (number, slice(at, at + len(stretch.ids)))
                ids[place], counts[place], segment[place] = stretch.ids, stretch.counts, index
                at += len(stretch.ids)
        return torch.from_numpy(ids), torch.from_numpy(segment >= 0), torch.from_numpy(counts), torch.from_numpy(segment)
