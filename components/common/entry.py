"""`python -m components.<stage>`: arguments, torchrun, exit code. The same for every stage.

python -m components.sft --config run.yaml --input model=URI --input dataset=URI --output URI [--nproc 4]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.common import heartbeat
from components.common.artifacts import commit, package_versions
from components.common.config import ConfigT, merge_configs, parse_overrides, read_config_file
from components.common.disk import disk_faults_named
from components.common.errors import RlhfError
from components.common.gate import check_result
from components.common.guard import SIZES, end_rank, guarded, is_out_of_memory, out_of_memory
from components.common.libraries import importing, quiet_libraries
from components.common.logs import LOG, keep_log, note, say
from components.common.manifest import Manifest, list_files
from components.common.stage import Job, Plan, Result, StageSpec, make_plan
from components.common.torchrun import run_ranks

Run = Callable[[Job[Any]], Result]


def stage_main(spec: StageSpec[ConfigT], load_run: Callable[[], Run], argv: Sequence[str] | None = None) -> int:
    """Runs a stage from the command line.

    Args:
        spec: The stage.
        load_run: Imports and returns the stage's `run`; called only when there is something to run, because it
            imports torch.
        argv: Arguments; the process's own by default.

    Returns:
        The exit code: 0, or that of the error (see `components.common.errors`). One of torchrun's processes ends here.
    """
    arguments = _parser(spec).parse_args(argv)
    code = guarded(lambda: _main(spec, load_run, arguments))
    if _is_rank():
        end_rank(code)
    return code


def _main(spec: StageSpec[ConfigT], load_run: Callable[[], Run], arguments: argparse.Namespace) -> int:
    config = merge_configs(read_config_file(arguments.config), parse_overrides(arguments.set))
    plan = make_plan(spec, config, arguments.config, dict(arguments.input), arguments.output)
    # Torchrun's parent has looked; a rank that looked again might see what another run has committed since, and leave.
    finished = None if _is_rank() else plan.finished()
    if finished:
        check_result(plan, finished.metrics)
        say(spec.name, f"finished before: {plan.uri}")
        return 0
    if arguments.nproc * arguments.nnodes > 1 and not _is_rank():
        run_ranks(spec.name, arguments)
        return 0
    quiet_libraries()
    with importing():
        run = load_run()
    run_plan(plan, run)
    return 0


def run_plan(plan: Plan[Any], run: Run) -> Manifest | None:
    """Runs a stage's verbs in a scratch folder and commits what they saved; on any error nothing is left behind.

    Returns:
        The manifest on the process that writes, None on the other ranks.
    """
    main_process = int(os.environ.get("RANK", "0")) == 0
    out = plan.store.scratch() if main_process else Path(tempfile.mkdtemp(prefix="rlhf-rank-"))
    prefix = f"{_work_of_key(plan)}/{os.environ.get('RLHF_RUN_ID', 'by-hand')}"
    try:
        with (
            plan.store.work(prefix, writes=main_process) as work,
            disk_faults_named(work, out),
            _signs_of_life(work, plan.spec.name, writes=main_process),
        ):
            plan.verify_inputs()
            with _memory_running_out(plan):
                result = run(Job(plan, out, work))
                _leave_group()
            check_result(plan, result.metrics)
            if not main_process:
                return None
            manifest = commit(plan.store, plan.prefix, out, _manifest(plan, result, out))
        _clear_checkpoints(plan)
        say(plan.spec.name, f"finished: {plan.uri}")
        return manifest
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _is_rank() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _leave_group() -> None:
    if _is_rank():
        from components.common import distributed  # which imports torch: so has whatever ran here

        distributed.leave()


@contextmanager
def _signs_of_life(work: Path, stage: str, *, writes: bool) -> Iterator[None]:
    """Keeps heartbeat and log of a block in a work folder, and how the block failed."""
    if not writes:
        yield
        return
    keep_log(work / LOG)
    try:
        with heartbeat.beating(work):
            yield
    except RlhfError as error:
        note(stage, f"✗ {error}")
        raise
    finally:
        keep_log(None)


@contextmanager
def _memory_running_out(plan: Plan[Any]) -> Iterator[None]:
    """Says which of a stage's settings is to be lowered when a GPU's memory ends in spite of what was tried."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        values = {name: getattr(plan.config, name) for name in SIZES if hasattr(plan.config, name)}
        lower = [f"{plan.spec.name}.{name} (it is {value})" for name, value in values.items()]
        raise out_of_memory(plan.spec.name, lower or SIZES) from error


def _work_of_key(plan: Plan[Any]) -> str:
    return f"work/{plan.spec.name}/{plan.key}"


def _manifest(plan: Plan[Any], result: Result, out: Path) -> Manifest:
    return Manifest(
        kind=result.kind,
        stage=plan.spec.name,
        key=plan.key,
        files=list_files(out),
        parents=plan.parents(),
        config=plan.config.for_key(),
        seed=plan.seed,
        metrics=result.metrics,
        versions=package_versions(),
        tokenizer=result.tokenizer,
    )


def _clear_checkpoints(plan: Plan[Any]) -> None:
    """Removes what any run has left of this key's training: its result is there now."""
    runs = f"{_work_of_key(plan)}/"
    paths = (path.removeprefix(runs).split("/") for path in plan.store.files(_work_of_key(plan)))
    for run in {parts[0] for parts in paths if parts[1:2] == ["checkpoints"]}:
        plan.store.remove_folder(f"{runs}{run}/checkpoints")


def _parser(spec: StageSpec[Any]) -> argparse.ArgumentParser:
    names = ", ".join(f"{name}{'' if wanted.required else ' (optional)'}" for name, wanted in spec.inputs.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{spec.name}",
        description=(spec.config.__doc__ or "").strip().splitlines()[0],
        epilog="exit codes: 0 done, 2 configuration or data, 3 input missing or altered, 75 try again, 1 a bug",
    )
    parser.add_argument(
        "--config", metavar="URI", required=True, help="the run's YAML; this stage reads its own section"
    )
    parser.add_argument(
        "--input", type=input_pair, action="append", default=[], metavar="NAME=URI", help=f"inputs: {names or 'none'}"
    )
    parser.add_argument("--output", required=True, metavar="URI", help="store root, or the full URI of the artifact")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. sft.learning_rate=1e-4")
    parser.add_argument("--nproc", type=int, default=1, help="processes on this machine, started with torchrun")
    parser.add_argument(
        "--nnodes", type=int, default=1, help="machines that train together, each with --nproc processes"
    )
    return parser


def input_pair(text: str) -> tuple[str, str]:
    """Parses NAME=URI, for argparse."""
    name, equals, uri = text.partition("=")
    if not equals or not uri:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URI")
    return name, uri
