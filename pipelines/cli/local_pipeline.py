"""Runs a pipeline file with kfp.local. `rlhf run` starts this as a process of its own and reads what it prints."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path


def main() -> int:
    """Takes the pipeline file, kfp's working folder and the parameters as JSON; returns the exit code."""
    file, root, parameters = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    warnings.filterwarnings("ignore")  # kfp.local warns about image names, resources and placeholders it ignores
    from kfp import local
    from kfp.local import subprocess_task_handler

    from pipelines.cli.load import load_pipeline

    replace = subprocess_task_handler.replace_python_executable
    subprocess_task_handler.replace_python_executable = partial(leave_parameters_alone, replace)
    pipeline = load_pipeline(file)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    try:
        pipeline(**parameters)
    except RuntimeError as error:  # a step failed; what went wrong is in the run's record
        print(error, flush=True)
        return 1
    return 0


def leave_parameters_alone(
    replace: Callable[[list[str], str], list[str]], command: list[str], executable: str
) -> list[str]:
    """Puts the interpreter into a step's command line as kfp does, but leaves its parameters as they were given.

    kfp replaces every `python3`, also the one in a path or text that is a parameter.

    Args:
        replace: kfp's own function.
        command: Command line of a step, with its parameters as JSON.
        executable: The interpreter.
    """
    replaced = replace(command, executable)
    after = [index + 1 for index, part in enumerate(command) if part == "--executor_input"]
    return [command[index] if index in after else part for index, part in enumerate(replaced)]


if __name__ == "__main__":
    sys.exit(main())
