"""`python -m components.sft`."""

import sys

from components.common.entry import Run, stage_main
from components.common.libraries import hide
from components.sft.config import SPEC


def _load_run() -> Run:
    hide("datasets")  # and with it pandas: a second
    from components.sft.stage import run

    return run


if __name__ == "__main__":
    sys.exit(stage_main(SPEC, _load_run))
