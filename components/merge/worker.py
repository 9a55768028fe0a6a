"""The process that computes: reads requests from its standard input, works with threads, answers on standard output.

It is a process of its own because the number of OpenBLAS threads, which can change the last bit of a product, is fixed
when numpy is first imported. With one thread a product depends on the block's shape only, and blocks are cut by the
tensor's shape, so the result is the same for any number of workers.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from components.common.errors import RlhfError
from components.merge.blocks import check_finite, close_files, cut, write_block


def main() -> None:
    """Serves `(verb, list)` requests until the input ends: `check` adapter tensors, carry out the writes of a shard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends us
    warnings.simplefilter("ignore", RuntimeWarning)  # what overflows is refused by name, numpy need not say it too
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anything prints must not get between the answers
    with ThreadPoolExecutor(int(sys.argv[1])) as threads:
        while (request := _receive()) is not None:
            verb, items = request
            if verb == "check":
                answer = _run(threads, check_finite, items)
            else:
                answer = _run(threads, write_block, (block for write in items for block in cut(write)))
            close_files()
            pickle.dump(answer, answers)
            answers.flush()


def _run(threads: ThreadPoolExecutor, function: Callable[[Any], None], items: Iterable[Any]) -> dict[str, Any] | None:
    """Calls the function on every item; returns the first error as plain data."""
    tasks = [threads.submit(function, item) for item in items]
    try:
        for task in tasks:
            task.result()
    except RlhfError as error:
        for task in tasks:
            task.cancel()
        wait(tasks)
        return error.to_dict()
    return None


def _receive() -> Any:
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:
        return None


if __name__ == "__main__":
    main()
