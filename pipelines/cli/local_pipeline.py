"""Runs a pipeline file with kfp.local. `rlhf run` starts this as a process of its own and reads what it prints."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path


def main() -> int:
    """Takes the pipeline file, kfp's working folder and the parameters as JSON; returns the exit code."""
    file, root, parameters = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    warnings.filterwarnings("ignore")  # kfp.local warns about image names, resources and placeholders it ignores
    from kfp import local

    from pipelines.cli.load import load_pipeline

    pipeline = load_pipeline(file)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    try:
        pipeline(**parameters)
    except RuntimeError as error:  # a step failed; what went wrong is in the run's record
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
