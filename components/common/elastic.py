"""`python -m components.common.elastic`: torchrun, but for a traceback of its own where a process has failed.

What there is to say the process has said itself, and `components.common.torchrun` says it again in one line.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs torchrun.

    Args:
        arguments: As `torchrun` takes them; the process's own by default.

    Returns:
        The exit code: 0, or 1 if a process has failed or torchrun itself was told to stop.
    """
    # Whoever has started us may be killed without a word; nobody else would then end the processes.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        # Not `run.main`, which prints the exception before it gets here.
        run.run(run.parse_args(arguments))
    except (SignalException, ChildFailedError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
