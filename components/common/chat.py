"""One way to turn a conversation into tokens, for SFT, reward model, RL and serving alike.

A sequence ends exactly at the end-of-turn token: SFT learns to stop there, RL stops there, and the reward model scores
there. Prompt and answer are tokenised apart, so that the answer's tokens in training are those a policy can sample
after the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from components.common.errors import UserError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Segment:
    """A stretch of a rendered conversation; `trained` says whether the model learns to write it."""

    text: str
    trained: bool


class SpecialTokenInTextError(ValueError):
    """A message holds the text of a special token, which would be taken for the token itself."""


class Chat:
    """Renders conversations with a tokenizer's chat template.

    Args:
        tokenizer: A fast tokenizer with a chat template and a pad token that is not its EOS token
            (`prepare_tokenizer` sees to both).

    Raises:
        UserError: The template fails on a plain exchange of user and assistant.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Added tokens that are not special, such as <think>, are words that a message may hold.
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._specials = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The template's text for a conversation.

        Raises:
            UserError: The template fails, or refuses the conversation: some take no system prompt.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        render = self.tokenizer.apply_chat_template
        try:
            return str(render(turns, tokenize=False, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # jinja raises whatever the template raises
            raise UserError(
                f"the chat template fails: {error}", where="chat template", hint="give another model.chat_template"
            ) from error

    def prompt(self, messages: Sequence[Message]) -> str:
        """What the model is given before it answers.

        Raises:
            SpecialTokenInTextError: A message holds the text of a special token.
        """
        self._refuse_specials(messages)
        return self.render(messages, add_generation_prompt=True)

    def answer(self, prompt: Sequence[Message], content: str) -> Segment:
        """What the model is expected to write after `prompt(messages)`, up to and with the end-of-turn token.

        Raises:
            SpecialTokenInTextError: The answer holds the text of a special token.
            UserError: The template renders an answer so that its prompt is not a prefix.
        """
        return self.segments((*prompt, Message("assistant", content)))[-1]

    def segments(self, messages: Sequence[Message], *, every_turn: bool = True) -> list[Segment]:
        """Splits a conversation that ends with the assistant into what is given and what is to be learnt.

        Args:
            messages: The conversation.
            every_turn: Learn all of the assistant's turns, not only the last.

        Raises:
            SpecialTokenInTextError: A message holds the text of a special token.
            UserError: The template is not prefix-stable: it rewrites earlier turns when later ones come.
        """
        self._refuse_specials(messages)
        full = self.render(messages)
        wanted = [i for i, message in enumerate(messages) if message.role == "assistant"]
        segments: list[Segment] = []
        done = 0
        for index in wanted if every_turn else wanted[-1:]:
            given = self.render(messages[:index], add_generation_prompt=True)
            last = index == len(messages) - 1
            text = full if last else self.render(messages[: index + 1])
            written = self._answer_in(text, given, messages[index].content)
            if len(given) < done or not full.startswith(given):
                raise _unstable_template()
            if not last and not full.startswith(written, len(given)):
                raise _unstable_template()
            segments += [Segment(full[done : len(given)], False), Segment(written, True)]
            done = len(given) + len(written)
        return [segment for segment in segments if segment.text]

    @cached_property
    def end_of_turn(self) -> str:
        """The token with which the template ends an assistant's turn; the EOS token if it uses none."""
        probe = (Message("user", "a"), Message("assistant", "b"))
        given = self.render(probe[:1], add_generation_prompt=True)
        tail = self.render(probe)[len(given) :]
        tail = tail[tail.rfind("b") + 1 :]
        tokens = {*self._specials, *self.tokenizer.get_added_vocab()}
        found = [(tail.find(token), token) for token in tokens if token in tail]
        return min(found, key=lambda pair: (pair[0], -len(pair[1])))[1] if found else str(self.tokenizer.eos_token)

    @property
    def end_of_turn_id(self) -> int:
        """Id of `end_of_turn`."""
        return int(self.tokenizer.convert_tokens_to_ids(self.end_of_turn))

    def _answer_in(self, text: str, given: str, content: str) -> str:
        """What follows a prompt in a rendered text, up to and with the end-of-turn token."""
        # Templates may strip the content; one that rewrites it altogether still ends it at the first end-of-turn.
        at = text.find(content.strip(), len(given))
        end = text.find(self.end_of_turn, at + len(content.strip()) if at >= 0 else len(given))
        if end < 0:  # the template leaves the last turn open: close it as the model will have to
            return text[len(given) :].rstrip("\n") + self.end_of_turn
        return text[len(given) : end + len(self.end_of_turn)]

    def _refuse_specials(self, messages: Iterable[Message]) -> None:
        for message in messages:
            for token in self._specials:
                if token in message.content:
                    raise SpecialTokenInTextError(token)


def _unstable_template() -> UserError:
    return UserError(
        "the chat template writes earlier turns differently once later ones follow, so the assistant's turns cannot be "
        "told apart",
        where="chat template",
        hint="set data.sft.assistant_turns=last, or give another model.chat_template",
    )
