"""`rlhf chat`: a conversation in the terminal, or one question a line from a pipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from components.common.chat import Chat, Message, SpecialTokenInTextError
from components.common.errors import UserError
from components.common.generation import Ids, Sampling, generate
from components.data.model_facts import read_model_facts
from components.data.tokenise import encode
from components.inference.generate import Options, completion_text
from components.inference.load import LanguageModel, load_language_model
from components.inference.source import find_model, load_source_tokenizer

Ending = Literal["stop", "length", "full", "interrupted"]
EXIT, RESET = "/exit", "/reset"
HELP = f"{RESET} begins anew, {EXIT} or Ctrl-D leaves, Ctrl-C stops an answer"


class ContextFullError(Exception):
    """The conversation leaves the model no room to answer."""


def open_conversation(model: str, options: Options, *, base: str | None = None, system: str = "") -> Conversation:
    """Loads a model to talk with.

    Args:
        model: Artifact URI or plain folder of a model or adapter.
        options: How to sample.
        base: The model below an adapter, if its manifest does not lead to it.
        system: What the model is told before the first turn, if anything.

    Raises:
        UserError: The system prompt cannot be rendered, or the model is none to talk with.
        InputError: The model is missing, altered or incomplete.
    """
    found = find_model(model, "generate", base)
    chat = Chat(load_source_tokenizer(found))
    if system:
        _check_system(chat, system)
    sampling = options.sampling(chat.tokenizer, read_model_facts(found.weights).max_positions)
    return Conversation(load_language_model(found), chat, sampling, system)


@dataclass
class Conversation:
    """A conversation with a model.

    Attributes:
        language: The model.
        chat: Renders its conversations.
        sampling: How to decode; each answer has random numbers of its own.
        system: What the model is told before the first turn, if anything.
        messages: The turns so far.
        answers: How many answers were begun, in this and earlier conversations.
    """

    language: LanguageModel
    chat: Chat
    sampling: Sampling
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    answers: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all turns but the system's."""
        self.messages = [Message("system", self.system)] if self.system else []

    def ask(self, question: str, show: Callable[[str], None]) -> Ending:
        """Adds a turn and the model's answer; Ctrl-C ends the answer, and what there is of it stays.

        Args:
            question: What the user says.
            show: Given the answer piece by piece, as it comes.

        Returns:
            Whether the answer ended by itself, at the longest completion, where the context is full, or by Ctrl-C.

        Raises:
            SpecialTokenInTextError: The question holds the text of a special token.
            ContextFullError: There is no room for an answer; the conversation is as it was.
        """
        asked = [*self.messages, Message("user", question)]
        (prompt,) = encode(self.chat.tokenizer, [self.chat.prompt(asked)])
        if self.sampling.limit(prompt) < 1:
            raise ContextFullError
        written, interrupted = self._write(prompt, show)
        answer = completion_text(self.chat.tokenizer, np.asarray(written, np.int64))
        if answer or not interrupted:
            self.messages = [*asked, Message("assistant", answer)]
        if interrupted:
            return "interrupted"
        if written[-1] in self.sampling.stop:
            return "stop"
        return "length" if len(written) == self.sampling.max_new_tokens else "full"

    def _write(self, prompt: Ids, show: Callable[[str], None]) -> tuple[list[int], bool]:
        """Token ids of the answer, and whether it was interrupted."""
        from tokenizers.decoders import DecodeStream

        pieces = DecodeStream(skip_special_tokens=True)
        written: list[int] = []

        def take(_row: int, token: int) -> None:
            written.append(token)
            piece = pieces.step(self.chat.tokenizer.backend_tokenizer, token)
            if piece:  # the first tokens of a letter that has several show nothing yet
                show(piece)

        self.answers += 1
        language = self.language
        try:
            generate(language.model, [prompt], self.sampling, language.policy, keys=[(self.answers,)], watch=take)
        except KeyboardInterrupt:
            return written, True
        return written, False


def converse(
    conversation: Conversation, read: Callable[[], str], show: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Asks what is read until there is no more.

    Args:
        conversation: The conversation.
        read: The next line; raises EOFError at the end and KeyboardInterrupt on Ctrl-C.
        show: Prints a piece of an answer.
        note: Prints a line that is no answer.
    """
    while True:
        try:
            line = read().strip()
            if line == EXIT:
                return
            if line == RESET:
                conversation.reset()
                note("a new conversation")
            elif line.startswith("/"):
                note(f"there is no {line.split()[0]}: {HELP}")
            elif line:
                _answer(conversation, line, show, note)
        except EOFError:
            return
        except KeyboardInterrupt:  # not while an answer was written
            show("\n")
            note(HELP)


def _check_system(chat: Chat, system: str) -> None:
    try:
        chat.prompt((Message("system", system), Message("user", "a")))
    except SpecialTokenInTextError as error:
        raise UserError(f"holds the special token {error}", where="--system", hint="take it out") from error
    except UserError as error:
        raise UserError(error.what, where="--system", hint="this model may take no system prompt") from error


def _answer(conversation: Conversation, line: str, show: Callable[[str], None], note: Callable[[str], None]) -> None:
    notes: dict[Ending, str] = {
        "full": f"the context of {conversation.sampling.max_positions} tokens is full: {RESET} begins anew",
        "length": f"cut off after {conversation.sampling.max_new_tokens} tokens",
        "interrupted": "stopped",
    }
    try:
        ending = conversation.ask(line, show)
        show("\n")
    except ContextFullError:
        ending = "full"
    except SpecialTokenInTextError as error:
        note(f"the text holds the special token {error}: write it differently")
        return
    if ending in notes:
        note(notes[ending])
