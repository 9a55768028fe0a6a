"""The command line: `rlhf`, and `kfp` with a `run submit FILE.py` that the stock command lacks."""

from __future__ import annotations

import importlib

import click

from pipelines.cli.options import HELP_NAMES

_COMMANDS = {
    "run": ("pipelines.cli.run", "Run a pipeline, on this machine or on a cluster."),
    "plan": ("pipelines.cli.plan", "Say what a run will take: memory, time, transfers."),
    "doctor": ("pipelines.cli.doctor", "Check what a run needs, here and on the cluster."),
    "status": ("pipelines.cli.status", "Say how a run goes, step by step."),
    "logs": ("pipelines.cli.logs", "Show what the steps of a run print."),
    "cancel": ("pipelines.cli.cancel", "End a run and its jobs."),
    "submit": ("pipelines.cli.submit", "Start a pipeline on Kubeflow Pipelines."),
    "generate": ("pipelines.cli.generate", "Complete a file of prompts with a model."),
    "score": ("pipelines.cli.score", "Score a file of answers with a reward model."),
    "put": ("pipelines.cli.put", "Put data or a model into a store."),
    "get": ("pipelines.cli.get", "Take an artifact, data or a report out of a store."),
    "chat": ("pipelines.cli.chat", "Talk with a model in the terminal."),
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for, so that `--help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings=HELP_NAMES)
@click.version_option(package_name="rlhf-stack", prog_name="rlhf")
def main() -> None:
    """Takes a base model through PT → SFT → RM → RL, with LoRA, merged after every stage."""
