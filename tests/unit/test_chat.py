"""One renderer: a sequence ends exactly at end-of-turn, whatever the template; padding never ends a turn."""

import pytest

from components.common.chat import Chat, Message, SpecialTokenInTextError
from components.common.errors import UserError
from components.common.tokenizer import PLAIN_TEMPLATE, prepare_tokenizer, tokenizer_identity
from components.prepare.scratch import CHATML, make_tokenizer

DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
# Rewrites earlier assistant turns, as templates do that hide old reasoning.
FORGETFUL = CHATML.replace(
    "{{ message['content'] }}",
    "{% if message['role'] == 'assistant' and not loop.last %}hidden{% else %}{{ message['content'] }}{% endif %}",
)
OPEN_ENDED = CHATML.replace(
    "<|im_end|>\n{% endfor %}", "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
)
STRIPPING = CHATML.replace("message['content']", "message['content'] | trim")

TALK = (Message("user", "hi"), Message("assistant", "yo"), Message("user", "bye"), Message("assistant", "so long"))


def chat_with(template):
    tokenizer = make_tokenizer(["hi yo bye so long"], 300)
    tokenizer.chat_template = template
    return Chat(prepare_tokenizer(tokenizer))


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, PLAIN_TEMPLATE, OPEN_ENDED, STRIPPING])
def test_every_answer_ends_exactly_at_end_of_turn(template):
    chat = chat_with(template)
    for messages in (TALK[:2], TALK):
        segments = chat.segments(messages)
        trained = [segment.text for segment in segments if segment.trained]
        answers = [message.content for message in messages if message.role == "assistant"]
        assert [text.strip() for text in trained] == [answer + chat.end_of_turn for answer in answers]
        assert segments[-1].trained
        assert chat.end_of_turn == "<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, PLAIN_TEMPLATE])
def test_a_prompt_is_what_stands_before_the_answer_in_training(template):
    chat = chat_with(template)
    given = "".join(segment.text for segment in chat.segments(TALK)[:-1])
    assert given == chat.prompt(TALK[:3])


def test_the_segments_are_the_rendered_text():
    chat = chat_with(CHATML)
    joined = "".join(segment.text for segment in chat.segments(TALK))
    assert chat.render(TALK) == joined + "\n"


def test_only_the_last_turn_if_asked():
    segments = chat_with(CHATML).segments(TALK, every_turn=False)
    assert [segment.text for segment in segments if segment.trained] == ["so long<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_or_used_for_the_last_turn():
    chat = chat_with(FORGETFUL)
    with pytest.raises(UserError, match="assistant_turns=last"):
        chat.segments(TALK)
    assert chat.segments(TALK, every_turn=False)[-1].text == "so long<|im_end|>"


def test_a_broken_template_is_a_user_error():
    with pytest.raises(UserError, match="chat template fails"):
        chat_with("{{ messages[0].nothing.at.all }}")


def test_the_text_of_a_special_token_is_refused():
    chat = chat_with(CHATML)
    for messages in ((Message("user", "say <|im_end|>"),), (Message("user", "a"), Message("assistant", "<|pad|>"))):
        with pytest.raises(SpecialTokenInTextError):
            chat.prompt(messages)


@pytest.mark.parametrize("pad", [None, "<|im_end|>"])
def test_pad_is_never_a_token_that_ends_a_turn(pad):
    tokenizer = make_tokenizer(["hi"], 300)
    tokenizer.pad_token = pad
    prepared = prepare_tokenizer(tokenizer)
    assert prepared.pad_token_id not in (prepared.eos_token_id, Chat(prepared).end_of_turn_id)
    assert prepared.pad_token not in Chat(prepared).render(TALK)


def test_without_any_token_to_pad_with_the_user_is_told():
    from transformers import PreTrainedTokenizerFast

    tokenizer = make_tokenizer(["hi"], 300)
    backend = tokenizer.backend_tokenizer
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    bare.chat_template = (
        "{% for m in messages %}<|pad|><|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}<|im_start|>"
    )
    with pytest.raises(UserError, match="no token can serve as padding"):
        prepare_tokenizer(bare)


def test_a_base_without_template_gets_one_of_its_own_tokens():
    tokenizer = make_tokenizer(["hi"], 300)
    tokenizer.chat_template = None
    before = len(tokenizer)
    chat = Chat(prepare_tokenizer(tokenizer))
    assert chat.prompt(TALK[:1]) == "User: hi\nAssistant:"
    assert len(chat.tokenizer) == before


def test_identity_changes_with_template_and_vocabulary():
    one, two = make_tokenizer(["hi"], 300), make_tokenizer(["completely other words here"], 300)
    assert tokenizer_identity(one) == tokenizer_identity(make_tokenizer(["hi"], 300))
    assert tokenizer_identity(one)["vocabulary"] != tokenizer_identity(two)["vocabulary"]
    two.chat_template = PLAIN_TEMPLATE
    assert tokenizer_identity(one)["chat_template"] != tokenizer_identity(two)["chat_template"]
