"""`python -m components.data`: makes the datasets of all stages that have sources, or of one with `--task`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from components.common.config import check_sections, merge_configs, parse_overrides, read_config_file, validate
from components.common.entry import input_pair, run_plan
from components.common.errors import UserError
from components.common.guard import guarded
from components.common.libraries import hide, importing, quiet_libraries
from components.common.logs import say
from components.common.stage import make_plan
from components.data.config import DataConfig, spec_of
from components.data.records import TASKS, Task
from components.data.sources import with_digests


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the data step from the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    quiet_libraries(offline=False)
    hide("torch")  # two seconds and half a gigabyte
    config = merge_configs(read_config_file(arguments.config), parse_overrides(arguments.set))
    where: str = arguments.config
    check_sections(config, where)
    settings = validate(DataConfig, config.get("data"), "data", where)
    parts = settings.model_dump(mode="json")
    tasks: list[Task] = arguments.task or [task for task in TASKS if parts[task]["sources"]]
    empty = [task for task in tasks if not parts[task]["sources"]] or ([] if tasks else ["sft"])
    if empty:
        raise UserError("has no sources", where=f"{where} data.{empty[0]}", hint=f"set data.{empty[0]}.sources=[PATH]")
    for task in tasks:
        config["data"] = {task: with_digests(parts[task])}
        plan = make_plan(spec_of(task, getattr(settings, task)), config, where, dict(arguments.input), arguments.output)
        if plan.finished():
            say(plan.spec.name, f"finished before: {plan.uri}")
            continue
        with importing():
            from components.data.stage import run

        run_plan(plan, functools.partial(run, task))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.data", description=__doc__)
    parser.add_argument(
        "--config", metavar="URI", required=True, help="the run's YAML; this step reads the data section"
    )
    parser.add_argument("--input", type=input_pair, action="append", default=[], metavar="NAME=URI", help="model=URI")
    parser.add_argument("--output", required=True, metavar="URI", help="store root")
    parser.add_argument(
        "--task", choices=TASKS, action="append", help="make only this stage's dataset; may be repeated"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. data.sft.heldout=0.1")
    return parser


if __name__ == "__main__":
    sys.exit(main())
