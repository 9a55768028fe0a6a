"""The parent's end of the computing process, `components.merge.worker`."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import components
from components.common.errors import RlhfError, error_from_dict
from components.merge.plan import Write
from components.merge.safetensors_file import Tensor

# OpenBLAS, and what else numpy may have been built with, read these when they are loaded.
_ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Engine:
    """A computing process with its threads; a context manager that ends it.

    Args:
        threads: Number of threads.
    """

    def __init__(self, threads: int) -> None:
        root = str(Path(components.__file__).parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "components.merge.worker", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_BLAS_THREAD, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def check_finite(self, tensors: Sequence[Tensor]) -> None:
        """Looks for NaN and infinity.

        Raises:
            InputError: Naming a tensor that holds one.
        """
        self._ask("check", tensors)

    def write(self, writes: Sequence[Write]) -> None:
        """Computes and writes the tensors of a shard.

        Raises:
            UserError: A value would become infinite, or the disk is full.
            InputError: The base holds NaN or infinity.
        """
        self._ask("write", writes)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self._process.kill()
        self._process.communicate()  # closes its input, which ends it

    def _ask(self, verb: str, items: Sequence[Any]) -> None:
        try:
            pickle.dump((verb, list(items)), self._requests)
            self._requests.flush()
            answer = pickle.load(self._answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            reason = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise RlhfError(
                f"the computing process ended early ({reason})", hint="raise the memory limit if it was killed"
            ) from error
        if answer:
            raise error_from_dict(answer)
