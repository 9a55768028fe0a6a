"""`python -m components.merge --config CONFIG --input base=URI --input adapter=URI --output URI`."""

from __future__ import annotations

import sys

from components.common.entry import Run, stage_main
from components.merge.config import SPEC


def load_run() -> Run:
    """The stage's `run`."""
    from components.merge.stage import run

    return run


if __name__ == "__main__":
    sys.exit(stage_main(SPEC, load_run))
