"""How a process of ours ends that fails: one line, the termination log and an exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from components.common.disk import disk_fault
from components.common.errors import RetryableError, RlhfError, UserError, write_termination
from components.common.signals import on_sigterm

# How much a stage computes at once: what to lower when memory ends.
SIZES = ("per_device_train_batch_size", "eval_tokens")

# What gloo and NCCL say to those who are left when a process dies.
_LOST_PEER = re.compile(
    r"closed by peer|reset by peer|connection refused|broken pipe|socket timeout|NCCL", re.IGNORECASE
)


def guarded(main: Callable[[], int]) -> int:
    """Calls `main`; an error becomes one line on stderr, the termination log and an exit code.

    Only a bug prints a traceback.
    """
    # What lies in a `finally` must run when a pod is told to stop, so SIGTERM becomes an exception.
    on_sigterm(_raise_terminated)
    try:
        return main()
    except RlhfError as error:
        return _fail(error)
    except _TerminatedError:
        return _fail(RetryableError("was told to stop", hint="run the same command again"))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if is_out_of_memory(error):
            return _fail(out_of_memory("the stage", SIZES))
        if fault := disk_fault(error):
            return _fail(fault)
        if _LOST_PEER.search(str(error)):
            return _fail(RetryableError(f"lost another process: {error}", hint="run the same command again"))
        traceback.print_exc()
        return _fail(RlhfError(f"{type(error).__name__}: {error}", hint="this is a bug: please report the traceback"))


def end_rank(code: int) -> NoReturn:
    """Ends one of torchrun's processes, past Python's own way out.

    Python ends every other thread that asks for its lock there. One of gloo's that still frees a collective's tensors
    then aborts the process (pytorch/pytorch#190489): a stage that had done all it should would count as killed. To
    destroy the process group does not end those threads as long as a model holds it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that a GPU's memory is used up."""
    torch = sys.modules.get("torch")  # whoever has not loaded it has no GPU to fill
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def out_of_memory(where: str, settings: Sequence[str]) -> UserError:
    """What to tell of it: where, and which settings to lower."""
    return UserError("the GPU's memory is used up", where=where, hint=f"lower {' or '.join(settings)}")


def _fail(error: RlhfError) -> int:
    folder = os.environ.get("RLHF_RANK_ERRORS")
    if folder:  # one of torchrun's ranks: the process that started torchrun speaks for all
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over; whoever tells us to stop now gets the reason
        part = Path(folder, f"{os.environ.get('RANK', '0')}.part")
        part.write_text(json.dumps(error.to_dict()), encoding="utf-8")
        part.replace(part.with_suffix(".json"))
        return error.code
    print(f"error: {error}", file=sys.stderr, flush=True)
    write_termination(error)
    return error.code


class _TerminatedError(BaseException):
    """SIGTERM. No `except Exception` may take it for a fault of its own."""


def _raise_terminated(_number: int, _frame: Any) -> None:
    raise _TerminatedError
