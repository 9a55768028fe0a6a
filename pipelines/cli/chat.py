"""`rlhf chat`: a conversation in the terminal."""

from __future__ import annotations

import sys

import click

from components.common.libraries import quiet_libraries
from pipelines.cli import options
from pipelines.cli.errors import reported


@click.command("chat", context_settings=options.HELP_NAMES)
@click.argument("model")
@click.option("--system", default="", help="What the model is told before the first turn.")
@options.sampling(max_completion_length=512)
@options.base
def chat(
    model: str,
    system: str,
    max_completion_length: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    base: str | None,
) -> None:
    """Talk with a model in the terminal.

    MODEL is an artifact of a store (a model or an adapter) or a Hugging Face folder. /reset begins a new conversation,
    /exit or Ctrl-D leaves, Ctrl-C stops an answer. From a pipe, each line is a question.
    """
    with reported():
        quiet_libraries()
        from components.inference.chat import HELP, converse, open_conversation
        from components.inference.generate import Options

        wanted = Options(
            max_completion_length=max_completion_length, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
        conversation = open_conversation(model, wanted, base=base, system=system)
        terminal = sys.stdin.isatty()
        if terminal:
            import readline  # noqa: F401, its import gives input() a history and editing

            _note(HELP)
        converse(conversation, lambda: input("> " if terminal else ""), _show, _note)
        if terminal:
            click.echo()


def _show(text: str) -> None:
    click.echo(text, nl=False)


def _note(text: str) -> None:
    click.echo(text, err=True)
