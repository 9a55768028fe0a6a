"""`rlhf plan`: what a run will take, before anything is started."""

from __future__ import annotations

import json
from dataclasses import replace

import click

from components.common.errors import UserError
from pipelines.cli import options
from pipelines.cli.errors import reported


@click.command("plan", context_settings=options.HELP_NAMES)
@click.argument("arguments", nargs=-1, metavar="[PIPELINE.py] [KEY=VALUE]...")
@click.option("-p", "--preset", help="Name of a preset, or a YAML file; default tiny-cpu, the example.")
@click.option("--config", help="YAML file laid over the preset.")
@click.option("--model", help="Base model: folder, artifact URI, hub name, .gguf file.")
@click.option("--data", help="Folder with pretrain, sft, reward and rl files or folders.")
@click.option("--seed", type=int, help="As for rlhf run; changes nothing here.")
@click.option("--store", envvar="RLHF_STORE", help="As for rlhf run; nothing is written to it.")
@click.option(
    "--memory", type=click.FloatRange(min=1), help="GiB of a GPU that programs can have; default a T4's 14.5."
)
@click.option("--json", "as_json", is_flag=True, help="Print bytes, tokens and seconds as JSON.")
def plan(
    arguments: tuple[str, ...],
    preset: str | None,
    config: str | None,
    model: str | None,
    data: str | None,
    seed: int | None,
    store: str | None,
    memory: float | None,
    as_json: bool,
) -> None:
    """Say what a run takes of each GPU, how fast it trains and what it moves; nothing is started.

    Takes the arguments of rlhf run. Exit code 2 if a stage does not fit, with what would make it fit.
    """
    with reported():
        from pipelines.cli.run import asked, checked
        from pipelines.plan.base import read_base
        from pipelines.plan.report import as_dict, plan_run
        from pipelines.plan.t4 import GIB, Gpu
        from pipelines.plan.table import as_text

        named = {"preset": preset, "config": config, "model": model, "data": data, "seed": seed}
        file, parameters = asked(arguments, named)
        wanted = checked(file, parameters)
        if wanted is None:
            raise UserError("is no pipeline of this package", where=str(file), hint="plan rlhf.py or dpo.py")
        gpu = replace(Gpu(), name="GPU", memory=memory * GIB) if memory else Gpu()
        made = plan_run(read_base(wanted.model), wanted, file.stem, gpu)
        click.echo(json.dumps(as_dict(made), indent=2) if as_json else as_text(made))
        if not made.fits:
            raise SystemExit(2)
