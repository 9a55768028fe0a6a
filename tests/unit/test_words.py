"""Encoding by words gives exactly what the tokenizer's backend gives, or declines."""

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from components.data import tokenise
from components.data.words import KNOWN, WordEncoder, word_encoder

EVERY = 61  # of the rare characters are looked at; with 1, which takes minutes, none is left out
DIGITS = pre_tokenizers.Digits(individual_digits=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
MAPPED = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def by(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), MAPPED])


MAKES = {
    "gpt2": BYTES,
    "smollm2": pre_tokenizers.Sequence([DIGITS, BYTES]),
    "digit runs": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), BYTES]),
    "llama3": by(KNOWN[1]),
    "qwen2": by(KNOWN[2]),
}
CORPUS = [
    "It's   the  cow's 1234 said: 'moo!'\n\n\tshe'll say\r\n  naïve café ½ x²  ",
    "def f(x):\n    return x  # …",
] * 20


def make(pre_tokenizer, normalizer=None):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    if normalizer:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "<|end|>"], initial_alphabet=alphabet)
    )
    made.add_tokens([AddedToken("<think", normalized=False), AddedToken("<thinking>", normalized=False)])
    return made


@pytest.fixture(scope="module", params=MAKES)
def backend(request):
    return make(MAKES[request.param])


def assert_same(backend, texts, special=False):
    encoder = word_encoder(backend)
    for text, expected in zip(texts, backend.encode_batch_fast(texts, add_special_tokens=special), strict=True):
        assert encoder.encode(text, special=special).tolist() == expected.ids, repr(text)


def test_every_character_is_split_as_the_backend_splits_it(backend):
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    # The alphabets lie low; far above them most characters are ideographs, or not assigned.
    characters = [chr(code) for code in codes if code < 0x3000 or code % EVERY == 0]
    characters.sort(key=lambda c: unicodedata.category(c) == "Cn")  # these are the backend's, and all in their text too
    blocks = [characters[start : start + 512] for start in range(0, len(characters), 512)]
    # Beside letters, digits, spaces, marks and the ends of short forms, where the expressions look around.
    assert_same(backend, ["".join(f"a{c}b1{c} {c}  {c}\n{c}!{c}'{c}'l{c} " for c in block) for block in blocks])


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.one_of(st.sampled_from(" \n\r\t'sStTlLrRe1½a²b!?<|>é́"), st.characters(codec="utf-8"))))
@example(text="a<think>b<thinking>c<|end|>d <s>")
@example(text="")
def test_any_text_is_encoded_as_the_backend_does(backend, text):
    assert_same(backend, [text])
    backend.encode_special_tokens = True
    try:
        assert_same(backend, [text])
    finally:
        backend.encode_special_tokens = False


def test_words_are_encoded_once(backend):
    encoder = WordEncoder(backend, word_encoder(backend)._splits)
    calls = []

    class Counting:
        def encode(self, word, **options):
            calls.append(word)
            return backend.encode(word, **options)

    encoder._words._backend = Counting()
    encoder.encode("moo oink moo oink moo")
    assert len(calls) == len(set(calls)) == 3  # "moo", " oink" and " moo"


def test_what_a_post_processor_adds_is_added():
    backend = make(BYTES)
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A <|end|>", special_tokens=[("<s>", 0), ("<|end|>", 1)]
    )
    assert_same(backend, ["", "the cow"], special=True)
    assert word_encoder(backend).encode("the cow", special=True)[[0, -1]].tolist() == [0, 1]


def test_texts_are_normalised():
    backend = make(MAKES["qwen2"], normalizers.NFC())
    assert_same(backend, ["cafe\u0301 café", "a" * 10, "ﬁ Å"])


def test_added_tokens_with_rules_of_their_own_go_to_the_backend():
    backend = make(BYTES)
    backend.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True), AddedToken("moo", single_word=True)])
    assert_same(backend, ["a <tool> b", "moo mooing  moo.", "none here"])


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.Metaspace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        by(r" ?[^(\s|[.,!?…])]+"),  # bloom's: the engines read the nested set differently
        DIGITS,
    ],
)
def test_a_tokenizer_of_another_make_is_declined(pre_tokenizer):
    assert word_encoder(make(pre_tokenizer)) is None


def test_many_cores_are_used_by_the_backend(backend, monkeypatch):
    class OneBackend:
        backend_tokenizer = backend

    texts = ["the cow said moo", "1234 <think>"]
    few = tokenise.encode(OneBackend, texts)
    monkeypatch.setattr(tokenise, "word_encoder", lambda _: pytest.fail("words are for few cores"))
    monkeypatch.setattr(tokenise.os, "sched_getaffinity", lambda _: set(range(16)))
    many = tokenise.encode(OneBackend, texts)
    for one, other in zip(few, many, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype
