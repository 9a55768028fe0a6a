"""`python -m components.prepare`: resolves a configuration, brings base model and sources into the store."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import yaml

from components.common.entry import run_plan
from components.common.errors import UserError
from components.common.flows import DEFAULT_FLOW, FLOWS, TRAINING_STAGES
from components.common.functions import code_digest
from components.common.guard import guarded
from components.common.inputs import find_input
from components.common.libraries import quiet_libraries
from components.common.logs import say
from components.common.stage import Plan, make_plan
from components.common.store import open_store
from components.data.config import READERS, wanted_parts
from components.data.records import TASKS
from components.data.sources import names_below, with_digests
from components.prepare.config import BASE, SOURCES, RunConfig
from components.prepare.resolve import Request, resolve

SCRATCH = "scratch"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the prepare step from the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return guarded(lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    request = Request(
        preset=arguments.preset,
        config=arguments.config,
        overrides=arguments.overrides,
        model=arguments.model,
        data=arguments.data,
        seed=arguments.seed,
        pipeline=arguments.pipeline,
    )
    config = resolve(request)
    check_functions(config)
    quiet_libraries(offline=False)
    fields = config.model_dump(mode="json")
    find_adapters(fields)
    fields["data"] = bring_sources(config, fields, arguments.output)
    check_sources(config, fields["data"])
    warn_of_leaks(fields["data"])
    fields["model"]["source"] = bring_base(config, fields, arguments.base or arguments.output)
    store = open_store(arguments.output)
    asked = {**dataclasses.asdict(request), "base": config.model.source}
    store.write(f"runs/{arguments.run_id}/request.json", json.dumps(asked, indent=2).encode())
    path = f"runs/{arguments.run_id}/config.yaml"
    store.write(path, yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).encode())
    say("prepare", f"configuration: {store.root}/{path}")
    return 0


def bring_sources(config: RunConfig, fields: dict[str, Any], output: str) -> dict[str, Any]:
    """Makes the sources that are built, and names the content of all.

    Returns:
        The resolved `data` section.
    """
    data = dict(fields["data"])
    missing = [task for task in wanted_parts(fields) if not data[task]["sources"]]
    if config.data.builder is not None and (missing or config.model.source == SCRATCH):
        data["builder"] = {**data["builder"], "versions": _versions(config.data.builder.packages)}
        plan = make_plan(SOURCES, {"seed": config.seed, "data": data}, "configuration", {}, output)
        _make(plan, "components.prepare.sources")
        made = names_below(plan.uri)
        for task in missing:
            if task in made:
                data[task] = {**data[task], "sources": [{"path": f"{plan.uri}/{task}"}]}
        fields["sources"] = plan.uri
    for task in TASKS:
        if data[task]["sources"]:
            data[task] = with_digests(data[task])
    return data


def check_functions(config: RunConfig) -> None:
    """Finds every function that the configuration names, since the stages that call them come last.

    Raises:
        UserError: One is not there.
    """
    paths = [function.function for function in config.evaluate.reward_functions if config.evaluate.enabled]
    if config.rl.enabled:
        paths += [function.function for function in config.rl.reward_functions]
        paths += [config.rl.solve_rate.function] if config.rl.solve_rate else []
    for path in paths:
        code_digest(path)


def find_adapters(fields: dict[str, Any]) -> None:
    """Puts the full URI of every adapter that a stage is to go on from into the resolved configuration.

    Raises:
        InputError: One is not there, or is something else.
    """
    for stage in TRAINING_STAGES:
        if fields[stage].get("adapter"):
            fields[stage]["adapter"] = find_input(f"{stage}.adapter", fields[stage]["adapter"], ("adapter",)).uri


def check_sources(config: RunConfig, data: dict[str, Any]) -> None:
    """Refuses a run in which an enabled stage has no data.

    Raises:
        UserError: Naming all of them.
    """
    stages = {
        task: [name for name in READERS[task] if name != "evaluate" and getattr(config, name).enabled] for task in TASKS
    }
    missing = [task for task in TASKS if stages[task] and not data[task]["sources"]]
    if missing:
        raise UserError(
            f"no data for {', '.join(name for task in missing for name in stages[task])}",
            where="data",
            hint=f"set data.{missing[0]}.sources=[PATH], or {stages[missing[0]][0]}.enabled=false",
        )


def warn_of_leaks(data: dict[str, Any]) -> None:
    """Says so when a prompt that one stage holds out may be trained on by another."""
    splits = {(data[task]["heldout"], data[task]["split_by"]) for task in ("sft", "reward", "rl")}
    if len(splits) > 1:
        say("prepare", "sft, reward and rl are split differently: prompts held out in one may be trained on in another")


def bring_base(config: RunConfig, fields: dict[str, Any], output: str) -> str:
    """Brings the base model into the store.

    Returns:
        Its URI.
    """
    from components.prepare.base import source_digest

    scratch = config.model.source == SCRATCH
    model = {**fields["model"], "digest": source_digest(config.model.source)}
    sources = fields.pop("sources", None)
    inputs = {"sources": sources} if scratch and sources else {}
    spec = dataclasses.replace(BASE, seeded=scratch)
    plan = make_plan(spec, {"seed": config.seed, "model": model}, "configuration", inputs, output)
    _make(plan, "components.prepare.base")
    return plan.uri


def _make(plan: Plan[Any], module: str) -> None:
    if plan.finished():
        say(plan.spec.name, f"finished before: {plan.uri}")
        return
    from importlib import import_module

    run_plan(plan, import_module(module).run)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise UserError("is not installed", where=package, hint="pip install 'rlhf-stack[examples]'") from error
    return versions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.prepare", description=__doc__)
    parser.add_argument("--output", required=True, metavar="URI", help="store root")
    parser.add_argument(
        "--base", default="", metavar="URI", help="artifact to make of the base model; default by its key"
    )
    parser.add_argument("--run-id", required=True, help="name of the run below runs/")
    parser.add_argument("--preset", default="tiny-cpu", help="name of a preset, or a YAML file")
    parser.add_argument("--config", default="", help="YAML text or file, laid over the preset")
    parser.add_argument("--overrides", default="", help="lines section.field=value, laid over both")
    parser.add_argument("--model", default="", help="base model: folder, artifact URI, hub name, .gguf, or scratch")
    parser.add_argument("--data", default="", help="folder with pretrain, sft, reward and rl files or folders")
    parser.add_argument("--pipeline", default=DEFAULT_FLOW, choices=FLOWS, help="says what stages there are")
    parser.add_argument("--seed", type=int, default=-1, help="of everything random; negative: the configuration's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
