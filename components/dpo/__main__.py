"""`python -m components.dpo`."""

import sys

from components.common.entry import Run, stage_main
from components.dpo.config import SPEC


def _load_run() -> Run:
    from components.dpo.stage import run

    return run


if __name__ == "__main__":
    sys.exit(stage_main(SPEC, _load_run))
