"""`rlhf generate`: a file of prompts → a file of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.common.chat import Chat
from components.common.errors import UserError
from components.common.generation import GREEDY, Sampling, generate
from components.common.logs import Progress, say
from components.common.tokenizer import stop_token_ids
from components.data.model_facts import read_model_facts
from components.data.sources import source_digest
from components.inference.batches import spans
from components.inference.load import LanguageModel, enough_memory, load_language_model
from components.inference.output import JsonLines, open_output
from components.inference.rows import COMPLETION, REFERENCE, SAMPLE, Ids, Request, read_requests, source_rows
from components.inference.source import find_model, load_source_tokenizer

FINISH_REASON = "finish_reason"
WRITTEN = (COMPLETION, FINISH_REASON, SAMPLE)


@dataclass(frozen=True)
class Options:
    """What can change a completion, beside model and prompt.

    Attributes:
        num_generations: Completions of each prompt.
        max_completion_length: Tokens, the end-of-turn token included.
        temperature: 0 takes the most likely token.
        top_k: See `Sampling`.
        top_p: See `Sampling`.
        seed: Of the sampling.
        raw: Continue plain text, without chat template.
    """

    num_generations: int = 1
    max_completion_length: int = 256
    temperature: float = GREEDY
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    raw: bool = False

    def __post_init__(self) -> None:
        if self.temperature == GREEDY and (self.num_generations > 1 or self.top_k or self.top_p < 1):
            raise UserError(
                "temperature 0 always takes the most likely token, so there is nothing to sample",
                where="--num-generations, --top-k, --top-p",
                hint="give --temperature, e.g. 1",
            )

    def sampling(self, tokenizer: Any, max_positions: int | None) -> Sampling:
        """The same as the decoder wants it."""
        return Sampling(
            self.max_completion_length,
            tuple(stop_token_ids(tokenizer)),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            max_positions=max_positions,
        )


@dataclass(frozen=True)
class Wanted:
    """A completion to be written: which sample of which request, the `row`th of the source."""

    request: Request
    row: int
    sample: int | None

    @property
    def columns(self) -> dict[str, Any]:
        """What its line holds beside the completion. A completion that the row brought along is its reference."""
        columns = dict(self.request.columns)
        if COMPLETION in columns:
            columns.setdefault(REFERENCE, columns[COMPLETION])
        return {name: value for name, value in columns.items() if name not in WRITTEN}

    def line(self, completion: str, *, ended: bool) -> dict[str, Any]:
        """Its line."""
        sample = {} if self.sample is None else {SAMPLE: self.sample}
        return {**self.columns, COMPLETION: completion, FINISH_REASON: "stop" if ended else "length", **sample}


def generate_file(
    model: str, source: str, output: Path, options: Options, *, base: str | None = None, batch_tokens: int = 16384
) -> None:
    """Completes every prompt of a source; rows that an earlier start of the same command wrote are kept.

    Args:
        model: Artifact URI or plain folder of a model or adapter.
        source: Artifact URI, file, folder or hub name of the prompts.
        output: JSON lines file.
        options: How to sample.
        base: The model below an adapter, if its manifest does not lead to it.
        batch_tokens: Positions in a batch; changes no completion.

    Raises:
        UserError: A row or an option is wrong, or the output is of another command.
        InputError: The model is missing, altered or incomplete.
    """
    found = find_model(model, "generate", base)
    tokenizer = load_source_tokenizer(found, needs_template=not options.raw)
    positions = read_model_facts(found.weights).max_positions
    room = None if positions is None else positions - 1
    wanted = _wanted(read_requests(source_rows(source), Chat(tokenizer), raw=options.raw, room=room), options)
    with open_output(output, {**found.identity, "input": source_digest(source), **asdict(options)}) as out:
        kept = out.kept(len(wanted), lambda index: [wanted[index].columns], WRITTEN)
        ended = sum(row.get(FINISH_REASON) == "stop" for row in kept)
        if kept:
            say("generate", f"{len(kept)} of {len(wanted)} rows are in {output} already")
        if len(kept) < len(wanted):
            sampling = options.sampling(tokenizer, positions)
            language = load_language_model(found)
            ended += _complete(language, tokenizer, sampling, wanted, len(kept), batch_tokens, options.raw, out)
    say("generate", f"{len(wanted)} rows, {ended} ended by themselves: {output}")


def completion_text(tokenizer: Any, ids: Ids, *, raw: bool = False) -> str:
    """The text of a completion, without the token that ends it.

    Args:
        tokenizer: The model's.
        ids: Token ids.
        raw: It continues a text, and the space around it belongs to it; an answer has none.
    """
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    return text if raw else text.strip()


def _wanted(requests: Sequence[Request], options: Options) -> list[Wanted]:
    samples = [None] if options.num_generations == 1 else list(range(options.num_generations))
    return [Wanted(request, row, sample) for row, request in enumerate(requests) for sample in samples]


def _complete(
    language: LanguageModel,
    tokenizer: Any,
    sampling: Sampling,
    wanted: Sequence[Wanted],
    done: int,
    batch_tokens: int,
    raw: bool,
    out: JsonLines,
) -> int:
    """Writes the rows from `done` on; returns how many ended by themselves."""
    progress = Progress("generate", len(wanted), done, every=1)
    lengths = [len(item.request.prompt) + sampling.limit(item.request.prompt) for item in wanted]
    ended, tokens = 0, 0
    for span in spans(lengths, done, batch_tokens):
        items = [wanted[i] for i in span]
        prompts, keys = [item.request.prompt for item in items], [(item.row, item.sample or 0) for item in items]
        with enough_memory():
            written = generate(language.model, prompts, sampling, language.policy, max_tokens=batch_tokens, keys=keys)
        stopped = [int(ids[-1]) in sampling.stop for ids in written]
        texts = [completion_text(tokenizer, ids, raw=raw) for ids in written]
        out.write(item.line(text, ended=end) for item, text, end in zip(items, texts, stopped, strict=True))
        ended += sum(stopped)
        tokens += sum(map(len, written))
        progress.step(span.stop, {"stopped": sum(stopped) / len(items)}, tokens)
    return ended
