"""How much of a file is computed before it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# Batches computed at a time: enough to sort their rows by length, few enough to see the file grow.
BATCHES = 4


def spans(lengths: Sequence[int], start: int, batch_tokens: int) -> Iterator[range]:
    """Cuts a list of rows, from `start` on, into stretches of a few batches each.

    Args:
        lengths: Tokens of each row.
        start: The first row of the first stretch.
        batch_tokens: Tokens in a batch; a stretch has at most `BATCHES` times as many, or one row.
    """
    begin = start
    while begin < len(lengths):
        end, total = begin + 1, lengths[begin]
        while end < len(lengths) and total + lengths[end] <= BATCHES * batch_tokens:
            total += lengths[end]
            end += 1
        yield range(begin, end)
        begin = end
