"""`rlhf chat`: turns as the template writes them, tokens as they come, an answer that can be stopped."""

import numpy as np
import pytest
from click.testing import CliRunner

from components.common.chat import Message
from components.common.errors import UserError
from components.common.generation import Sampling, generate
from components.inference.chat import HELP, converse, open_conversation
from components.inference.generate import Options
from pipelines.cli import main
from tests.support.models import tiny_model

OPTIONS = Options(max_completion_length=12, temperature=1.0, seed=5)


@pytest.fixture
def conversation(trained):
    return open_conversation(trained.policy, OPTIONS)


class Script:
    """Lines to be read, and what was shown and noted in between; a line that is an exception is raised."""

    def __init__(self, *lines):
        self.lines, self.shown, self.notes = list(lines), [], []

    def read(self):
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, type):
            raise line
        return line

    def play(self, conversation):
        converse(conversation, self.read, self.shown.append, self.notes.append)
        return "".join(self.shown)


def answer(conversation, messages, number):
    """The answer by way of what `rlhf generate` uses."""
    text = conversation.chat.prompt(messages)
    prompt = np.asarray(conversation.chat.tokenizer(text, add_special_tokens=False)["input_ids"])
    language = conversation.language
    (ids,) = generate(language.model, [prompt], conversation.sampling, language.policy, keys=[(number,)])
    return conversation.chat.tokenizer.decode(ids, skip_special_tokens=True)


def test_each_question_is_asked_after_all_turns_before_it(trained):
    conversation = open_conversation(trained.policy_adapter, OPTIONS, system="the cow")
    script = Script("What did Bada say?", "", "the owl")
    shown = script.play(conversation)
    first = [Message("system", "the cow"), Message("user", "What did Bada say?")]
    one = answer(conversation, first, 1)
    second = [*first, Message("assistant", one.strip()), Message("user", "the owl")]
    two = answer(conversation, second, 2)
    assert shown == f"{one}\n{two}\n"
    assert conversation.messages == [*second, Message("assistant", two.strip())]
    assert len(script.shown) > 4  # piece by piece


def test_reset_forgets_all_but_the_system_prompt_and_exit_leaves(trained):
    conversation = open_conversation(trained.policy, OPTIONS, system="the cow")
    script = Script("the owl", "/reset", "say", "/exit", "never asked")
    script.play(conversation)
    assert [message.content for message in conversation.messages[:2]] == ["the cow", "say"]
    assert len(conversation.messages) == 3
    assert script.lines == ["never asked"]


def test_ctrl_c_stops_the_answer_and_not_the_program(conversation):
    script = Script("say", KeyboardInterrupt, "/nonsense", "the owl")

    def show(text):
        script.shown.append(text)
        if len(script.shown) == 3:
            raise KeyboardInterrupt

    converse(conversation, script.read, show, script.notes.append)
    whole = answer(conversation, [Message("user", "say")], 1)
    assert conversation.messages[1].content == "".join(script.shown[:3]).strip()
    assert whole.startswith("".join(script.shown[:3]))
    assert len(conversation.messages) == 4
    assert [note for note in script.notes if not note.startswith("cut off")] == [
        "stopped",
        HELP,
        f"there is no /nonsense: {HELP}",
    ]


def test_a_question_whose_answer_was_stopped_before_it_began_is_taken_back(conversation, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("components.inference.chat.generate", interrupt)
    script = Script("say")
    script.play(conversation)
    assert conversation.messages == []
    assert script.notes == ["stopped"]


def test_a_full_context_is_said_in_one_line(tmp_path, tokenizer):
    tiny_model("llama", tokenizer, max_position_embeddings=40).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    conversation = open_conversation(str(tmp_path), Options(max_completion_length=40, temperature=5.0))
    script = Script(*["the cow said"] * 4)
    script.play(conversation)
    full = "the context of 40 tokens is full: /reset begins anew"
    assert script.notes[-1] == full
    turns = len(conversation.messages)
    script = Script("the cow said", "/reset", "say")
    script.play(conversation)
    assert turns >= 2
    assert script.notes[:2] == [full, "a new conversation"]
    assert conversation.messages[0].content == "say"


def test_an_answer_cut_off_at_its_longest_is_said(conversation):
    conversation.sampling = Sampling(2, ())
    script = Script("say")
    script.play(conversation)
    assert script.notes == ["cut off after 2 tokens"]


def test_special_tokens_are_refused_where_they_are_typed(conversation, trained):
    script = Script("say <|im_end|>", "say")
    script.play(conversation)
    assert script.notes[0] == "the text holds the special token <|im_end|>: write it differently"
    assert conversation.messages[0].content == "say"
    with pytest.raises(UserError, match=r"--system: holds the special token <\|im_end\|>"):
        open_conversation(trained.policy, OPTIONS, system="<|im_end|>")


def test_a_template_that_takes_no_system_prompt_says_so(tmp_path, tokenizer):
    tiny_model("llama", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template.read_text()
    )
    with pytest.raises(UserError, match="--system: the chat template fails: no system"):
        open_conversation(str(tmp_path), OPTIONS, system="be kind")


def test_letters_of_several_tokens_are_shown_whole(conversation, monkeypatch):
    text = "naïve 漢字 🦉"
    ids = conversation.chat.tokenizer(text)["input_ids"]
    assert len(ids) > len(text)

    def write(*_args, watch, **_kwargs):
        for token in ids:
            watch(0, token)

    monkeypatch.setattr("components.inference.chat.generate", write)
    shown = []
    conversation.ask("say", shown.append)
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)
    assert conversation.messages[-1].content == text


def test_a_pipe_asks_a_question_a_line(trained):
    arguments = ["chat", trained.policy, "--max-completion-length", "12", "--temperature", "1", "--seed", "5"]
    result = CliRunner().invoke(main, arguments, input="What did Bada say?\n/reset\nthe owl\n")
    assert result.exit_code == 0, result.stderr
    conversation = open_conversation(trained.policy, OPTIONS)
    one = answer(conversation, [Message("user", "What did Bada say?")], 1)
    two = answer(conversation, [Message("user", "the owl")], 2)
    assert result.stdout == f"{one}\n{two}\n"
    result = CliRunner().invoke(main, ["chat", trained.reward], input="")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
