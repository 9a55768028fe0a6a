"""`rlhf generate`: a file of prompts → a file of completions."""

from __future__ import annotations

from pathlib import Path

import click

from components.common.libraries import quiet_libraries
from pipelines.cli import options
from pipelines.cli.errors import reported, resumable


@click.command("generate", context_settings=options.HELP_NAMES)
@click.argument("model")
@click.argument("source", metavar="INPUT")
@click.argument("output", type=options.OUTPUT)
@click.option(
    "-n",
    "--num-generations",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Completions of each prompt.",
)
@options.sampling(max_completion_length=256)
@click.option("--raw", is_flag=True, help="Continue plain text as it is, without chat template: for base models.")
@options.base
@options.batch_tokens
def generate(
    model: str,
    source: str,
    output: Path,
    num_generations: int,
    max_completion_length: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    raw: bool,
    base: str | None,
    batch_tokens: int,
) -> None:
    """Complete a file of prompts with a model.

    MODEL is an artifact of a store (a model or an adapter) or a Hugging Face folder. INPUT holds prompts or
    conversations in any form that the rl and sft stages read: .jsonl, .json, .csv, .parquet, or .txt with a prompt a
    line. OUTPUT (.jsonl) gets a line for each prompt and completion: the row's columns, `completion` and
    `finish_reason` (stop or length).

    A completion depends on model, prompt, options, seed and the row's number, not on how rows are batched. An
    interrupted command goes on when it is given again.
    """
    with reported(), resumable():
        quiet_libraries(offline=Path(source).exists())
        from components.inference.generate import Options, generate_file

        wanted = Options(num_generations, max_completion_length, temperature, top_k, top_p, seed, raw)
        generate_file(model, source, output, wanted, base=base, batch_tokens=batch_tokens)
