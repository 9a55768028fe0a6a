"""`rlhf score`: a file of answers → the same rows with a reward model's scores."""

from __future__ import annotations

from pathlib import Path

import click

from components.common.libraries import quiet_libraries
from pipelines.cli import options
from pipelines.cli.errors import reported, resumable


@click.command("score", context_settings=options.HELP_NAMES)
@click.argument("model")
@click.argument("source", metavar="INPUT")
@click.argument("output", type=options.OUTPUT)
@click.option("--best-of", is_flag=True, help="Keep only the best answer to each prompt.")
@options.base
@options.batch_tokens
def score(model: str, source: str, output: Path, best_of: bool, base: str | None, batch_tokens: int) -> None:
    """Score a file of answers with a reward model.

    MODEL is a reward model, merged or as an adapter: an artifact of a store or a Hugging Face folder. Each row of INPUT
    is a prompt with `completion`, with a list `completions` or with `chosen` and `rejected`, or a conversation whose
    last turn is the answer. OUTPUT (.jsonl) gets the row's columns and `score`, `scores`, or `score_chosen` and
    `score_rejected`. The last line printed says the mean score or, of pairs, accuracy and margin.

    --best-of reads what `rlhf generate --num-generations` wrote, or lists of completions.
    """
    with reported(), resumable():
        quiet_libraries(offline=Path(source).exists())
        from components.inference.score import score_file

        score_file(model, source, output, base=base, best_of=best_of, batch_tokens=batch_tokens)
