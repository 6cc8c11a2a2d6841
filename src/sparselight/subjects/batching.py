"""Groups of examples of like length, so that little of a forward pass is padding.

The groups hold indices: whoever stores results puts them back into the order of the examples.
"""

from collections.abc import Iterator, Sequence

from sparselight.records import TokenPolicy


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
