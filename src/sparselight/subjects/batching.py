"""Groups of examples, and of rows, of like length, so that little of a forward pass is padding.

The groups hold indices: whoever stores results puts them back into the order of the examples.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparselight.protocols import Batch
from sparselight.records import TokenPolicy

WIDTHS = (0.25, 0.5, 0.75, 1.0)  # of the widest row: rows up to each share a pass
PASS_POSITIONS = 512  # a further pass must spare so many positions


def batches_by_length(n_tokens: Sequence[int], max_tokens: int, policy: TokenPolicy | None = None) -> Iterator[list[int]]:
    """Group examples of like length, longest first, at most `max_tokens` positions a group, padding included.

    Args:
        n_tokens: tokens of each example; those without any are left out.
        max_tokens: a single example that has more rows than fit still gets a group of its own.
        policy: gives the length at which an example goes on in a further row, and the special tokens of each row; without it an example is one row.
    """
    body = policy.body_tokens if policy else None
    step = body - policy.overlap_tokens if policy and body else 1
    frame = policy.context_tokens - policy.body_tokens if policy else 0
    group: list[int] = []
    n_rows = width = 0
    for index in sorted(range(len(n_tokens)), key=lambda index: -n_tokens[index]):
        size = n_tokens[index]
        if not size:
            break
        rows = 1 if body is None or size <= body else 1 + -(-(size - body) // step)
        if group and (n_rows + rows) * width > max_tokens:
            yield group
            group, n_rows = [], 0
        if not group:
            width = (size if body is None else min(size, body)) + frame
        group.append(index)
        n_rows += rows
    if group:
        yield group


def narrow_parts(batch: Batch, padding_side: str) -> list[tuple[Int[Tensor, " token"], Batch]]:
    """The batch as passes over rows of like length, each cut to its longest row; the last row of a long text is mostly padding otherwise.

    Returns:
        For each pass its tokens, as indices into those of the whole batch, and its batch.
    """
    lengths, widest = batch.attention_mask.sum(1), batch.attention_mask.shape[1]
    everything = torch.arange(batch.n_tokens)
    if batch.segment is not None or not _by_row(batch.inputs) or int(lengths.sum()) + PASS_POSITIONS > batch.attention_mask.numel():
        return [(everything, batch)]
    ends = torch.tensor([int(share * widest) for share in WIDTHS])
    bucket = torch.searchsorted(ends, lengths.contiguous())
    for number in range(len(WIDTHS) - 1):
        own = bucket == number
        if int(own.sum()) * int(ends[number + 1] - ends[number]) < PASS_POSITIONS:
            bucket[own] = number + 1
    row_of_token = batch.counts.nonzero()[:, 0].cpu()
    return [_part(batch, bucket == number, row_of_token, padding_side) for number in bucket.unique().tolist()]


def _part(batch: Batch, rows: Tensor, row_of_token: Int[Tensor, " token"], padding_side: str) -> tuple[Int[Tensor, " token"], Batch]:
    width = int(batch.attention_mask[rows].sum(1).max())
    columns = slice(0, width) if padding_side == "right" else slice(batch.attention_mask.shape[1] - width, None)
    tokens = rows[row_of_token].nonzero()[:, 0]
    matrices = {name: getattr(batch, name)[rows][:, columns] for name in ("input_ids", "attention_mask", "counts")}
    of_tokens = {name: getattr(batch, name)[tokens] for name in ("example", "position", "token_id", "char_start", "char_end")}
    return tokens, dataclasses.replace(batch, **matrices, **of_tokens, inputs=_of_rows(batch.inputs, rows))


def _by_row(inputs: Mapping[str, Any] | None) -> bool:
    """Whether inputs can be given to some of the rows: there are none, or they stand in a tuple with one entry a row."""
    return inputs is None or all(isinstance(value, tuple) for value in inputs.values())


def _of_rows(inputs: Mapping[str, Any] | None, rows: Tensor) -> dict[str, Any] | None:
    if inputs is None:
        return None
    numbers = rows.nonzero()[:, 0].tolist()
    return {name: tuple(value[number] for number in numbers) for name, value in inputs.items()}
