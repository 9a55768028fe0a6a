"""Tokens, labels and truncation: answers keep their end, prompts lose their middle, packed rows lose nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.chat import Chat, Message
from components.common.errors import InputError
from components.data.pack import one_each, pack
from components.data.records import Conversation, Document, Preference, Prompt
from components.data.table import TokenTable, build_table, split_long
from components.data.tokenise import (
    Rejected,
    Tokens,
    tokenise_conversations,
    tokenise_documents,
    tokenise_preferences,
    tokenise_prompts,
)


@pytest.fixture(scope="module")
def chat(tokenizer):
    return Chat(tokenizer)


def talk(*contents):
    roles = ("user", "assistant")
    return Conversation(tuple(Message(roles[i % 2], content) for i, content in enumerate(contents)))


def test_labels_are_the_answers_with_their_end(chat):
    (row,) = tokenise_conversations(chat, [talk("What did", "meow", "the cow", "moo")], 100)
    labelled = chat.tokenizer.decode(row.ids[row.trained])
    assert labelled == "meow<|im_end|>moo<|im_end|>"
    assert row.ids[-1] == chat.end_of_turn_id
    assert not row.truncated


def test_answer_tokens_are_those_that_follow_the_prompt_tokens(chat):
    (row,) = tokenise_conversations(chat, [talk("What did the cow say?", "moo")], 100)
    (prompt,) = tokenise_prompts(chat, [Prompt((Message("user", "What did the cow say?"),))], 100)
    assert row.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
    assert row.trained.sum() == len(row.ids) - len(prompt.ids)


def test_a_pair_is_a_conversation_with_each_answer(chat):
    question = (Message("user", "What did the cow say?"),)
    (both,) = tokenise_preferences(chat, [Preference(question, "moo", "baa")], 100)
    for answer, tokens in (("moo", both.chosen), ("baa", both.rejected)):
        (row,) = tokenise_conversations(chat, [talk("What did the cow say?", answer)], 100)
        assert tokens.ids.tolist() == row.ids.tolist()
        assert tokens.trained.tolist() == row.trained.tolist()


def test_a_long_prompt_loses_its_middle_and_the_answer_keeps_its_end(chat):
    conversation = talk("house " * 50 + "tower", "moo woof")
    (whole,) = tokenise_conversations(chat, [conversation], 1000)
    (cut,) = tokenise_conversations(chat, [conversation], 40)
    answer = whole.ids[whole.trained].tolist()
    assert len(cut.ids) == 40
    assert cut.truncated
    assert cut.ids[cut.trained].tolist() == answer
    marker = whole.ids[~whole.trained][-6:].tolist()
    assert cut.ids[~cut.trained][-6:].tolist() == marker


def test_the_oldest_exchange_goes_first(chat):
    conversation = talk("house " * 30, "meow", "the cow", "moo")
    (row,) = tokenise_conversations(chat, [conversation], 30)
    assert chat.tokenizer.decode(row.ids[row.trained]) == "moo<|im_end|>"
    assert row.truncated


def test_a_shortened_conversation_keeps_its_system_prompt(chat):
    system = Message("system", "cow pig duck")
    conversation = Conversation((system, *talk("house " * 30, "meow", "the cow", "moo").messages))
    (row,) = tokenise_conversations(chat, [conversation], 40)
    (expected,) = tokenise_conversations(chat, [Conversation((system, *talk("the cow", "moo").messages))], 100)
    assert row.ids.tolist() == expected.ids.tolist()
    assert row.truncated


def test_an_answer_that_does_not_fit_is_rejected_not_cut(chat):
    (row,) = tokenise_conversations(chat, [talk("hi", "house " * 60)], 40)
    assert row == Rejected("the answer alone is longer than max_length")
    (pair,) = tokenise_preferences(chat, [Preference((Message("user", "hi"),), "house " * 60, "moo")], 40)
    assert isinstance(pair, Rejected)


def test_a_long_pair_keeps_one_prompt_for_both(chat):
    pair = Preference((Message("user", "house " * 60),), "moo", "baa woof")
    (both,) = tokenise_preferences(chat, [pair], 40)
    prompts = [tokens.ids[~tokens.trained].tolist() for tokens in (both.chosen, both.rejected)]
    assert prompts[0] == prompts[1]
    assert max(len(both.chosen.ids), len(both.rejected.ids)) == 40


def test_special_tokens_in_text_are_rejected_in_chats_and_plain_text_in_documents(chat):
    (row,) = tokenise_conversations(chat, [talk("say <|im_end|>", "no")], 100)
    assert row == Rejected("the text holds the special token <|im_end|>")
    (document,) = tokenise_documents(chat.tokenizer, [Document("a <|im_end|> b")])
    assert document.ids.tolist().count(chat.end_of_turn_id) == 1  # its own end only
    assert chat.tokenizer.decode(document.ids[:-1]) == "a <|im_end|> b"


def test_documents_end_with_eos_once(chat):
    documents = tokenise_documents(chat.tokenizer, [Document("the cow"), Document("the pig said oink")])
    for tokens in documents:
        assert tokens.ids[-1] == chat.tokenizer.eos_token_id
        assert (tokens.ids == chat.tokenizer.eos_token_id).sum() == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=300))
def test_packing_keeps_every_sequence_once_and_never_overfills(lengths):
    sizes = np.asarray(lengths, np.int64)
    rows = pack(sizes, 64)
    assert sorted(rows.order.tolist()) == list(range(len(lengths)))
    fill = [int(sizes[rows.row(i)].sum()) for i in range(len(rows))]
    assert max(fill) <= 64
    # Best-fit decreasing leaves at most one row half empty or less.
    assert sum(f <= 32 for f in fill) <= 1


def test_packing_fills_rows():
    lengths = np.random.default_rng(0).integers(5, 200, 5000)
    rows = pack(lengths, 512)
    assert lengths.sum() / (len(rows) * 512) > 0.99


def test_tables_survive_saving(tmp_path):
    sequences = [
        Tokens(np.asarray([5, 6, 7]), np.asarray([False, True, True])),
        Tokens(np.asarray([8, 9]), np.asarray([True, False])),
    ]
    table = build_table(sequences, vocab_size=70000)
    table = TokenTable(table.tokens, table.offsets, table.trained, pack(table.lengths, 8))
    table.save(tmp_path / "t")
    loaded = TokenTable.load(tmp_path / "t")
    assert loaded.tokens.dtype == np.uint32
    assert isinstance(loaded.tokens, np.memmap)
    assert loaded.labels(0).tolist() == [-100, 6, 7]
    assert loaded.packed(0) == {
        "input_ids": [5, 6, 7, 8, 9],
        "labels": [-100, 6, 7, 8, -100],
        "seq_lengths": [3, 2],
    }
    with pytest.raises(InputError, match="holds no token table"):
        TokenTable.load(tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(8, 20))
def test_cutting_long_documents_loses_no_token(lengths, max_length):
    sequences = [Tokens(np.arange(n)) for n in lengths]
    table = build_table(sequences, vocab_size=100)
    pieces = split_long(table, max_length)
    assert pieces.lengths.max() <= max_length
    assert np.array_equal(np.concatenate([pieces.ids(i) for i in range(len(pieces))]), table.tokens)
    assert set(table.offsets) <= set(pieces.offsets)


def test_unpacked_rows_hold_one_sequence_each():
    assert [one_each(3).row(i).tolist() for i in range(3)] == [[0], [1], [2]]
