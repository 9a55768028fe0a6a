"""`python -m components.launcher run|print|cancel|cleanup`: the launcher by hand and inside pods."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from components.common.entry import input_pair
from components.common.guard import guarded
from components.common.logs import say
from components.launcher.job import GPU_STAGES


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command of the launcher; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: int(arguments.command(arguments)))


def _run(arguments: argparse.Namespace) -> int:
    from components.launcher import steps
    from components.launcher.planned import needed_input

    os.environ.setdefault("RLHF_LAUNCHER", "kubernetes")
    inputs = dict(arguments.input)
    if arguments.dry_run:
        return _print(arguments)
    if arguments.stage == "merge":
        steps.merge(arguments.config, needed_input(inputs, "base"), needed_input(inputs, "adapter"), arguments.of)
    elif arguments.stage == "data":
        steps.data(arguments.config, needed_input(inputs, "model"))
    elif arguments.stage == "report":
        steps.report(arguments.config)
    else:
        steps.stage(arguments.stage, arguments.config, inputs)
    return 0


def _print(arguments: argparse.Namespace) -> int:
    import yaml

    from components.launcher.objects import to_object
    from components.launcher.planned import planned_job

    os.environ.setdefault("RLHF_LAUNCHER", "kubernetes")
    os.environ.setdefault("RLHF_CPU_STEPS", "job")
    job = planned_job(arguments.stage, arguments.config, dict(arguments.input))
    print(yaml.safe_dump(to_object(job), sort_keys=False), end="")
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    from components.common.store import open_store
    from components.launcher.record import Run
    from components.launcher.run import variable

    Run(open_store(variable("RLHF_STORE")), arguments.run).cancel()
    return _cleanup(arguments)


def _cleanup(arguments: argparse.Namespace) -> int:
    from components.launcher.cancel import delete_jobs
    from components.launcher.connect import connect

    asked = arguments.namespace or os.environ.get("RLHF_NAMESPACE", "")
    cluster = connect(asked)
    names = delete_jobs(cluster, arguments.run)
    # Afterwards, since a store that is away must not keep the jobs beside us alive.
    elsewhere = "" if asked else _configured_namespace(arguments.run)
    if elsewhere not in ("", cluster.namespace):
        names += delete_jobs(connect(elsewhere), arguments.run)
    say("cleanup", f"deleted {', '.join(names)}" if names else "no jobs are left")
    return 0


def _configured_namespace(run: str) -> str:
    """`launcher.namespace` of a run, as far as the store is known."""
    from components.common.store import open_store
    from components.launcher.planned import jobs_namespace
    from components.launcher.record import Run

    root = os.environ.get("RLHF_STORE", "")
    return jobs_namespace(Run(open_store(root), run)) if root else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.launcher", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    jobs = (*GPU_STAGES, "merge")
    for name, function, stages, text in (
        ("run", _run, (*jobs, "data", "report"), "run a step as a job and follow it"),
        ("print", _print, (*jobs, "data", "report"), "print the job of a stage, and make nothing"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function, dry_run=False)
        command.add_argument("stage", choices=stages, metavar="STAGE", help=", ".join(stages))
        command.add_argument("--config", required=True, metavar="URI", help="<store>/runs/<run id>/config.yaml")
        command.add_argument("--input", type=input_pair, action="append", default=[], metavar="NAME=URI", help="inputs")
        command.add_argument("--of", default="", help="merge: the stage whose adapter it is")
        if name == "run":
            command.add_argument("--dry-run", action="store_true", help="print the job, and make nothing")
    for name, function, text in (
        ("cancel", _cancel, "end a run: no step of it begins any more, its jobs are deleted"),
        ("cleanup", _cleanup, "delete the jobs that a run has left, for a pipeline's last step"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        command.add_argument("run", help="the run's id")
        command.add_argument("--namespace", default="", help="of its jobs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
