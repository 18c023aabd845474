"""ROUGE-1 and length of summaries."""

from collections import Counter

import pytest

from holdfast.evaluation.overlap import summaries
from holdfast.records import Completion, Example, user
from holdfast.text import words


def completions(*pairs):
    return [
        Completion(example=Example(prompt=user("sum up"), response=target), text=text, num_tokens=len(text.split()) + 1)
        for text, target in pairs
    ]


def slow_f1(text, target):
    ours, theirs = words(text), words(target)
    left, shared = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


PAIRS = (
    ("The cat sat on the mat.", "A cat was sitting on the mat"),
    ("moss salt ember .", "moss salt ember ."),
    ("it isn't so", "it is not so"),
    ("", "moss salt"),
    ("größe über alles", "größe über alles"),
)


def test_rouge_1_is_that_of_a_slow_loop():
    rouge, length, tokens = summaries("summary", completions(*PAIRS))
    assert rouge.value == pytest.approx(sum(slow_f1(*pair) for pair in PAIRS) / len(PAIRS))
    assert (rouge.n, rouge.unjudged, rouge.name) == (5, 0, "rouge1/summary")
    assert length.value == pytest.approx(sum(len(words(text)) for text, _ in PAIRS) / len(PAIRS))
    assert tokens.value == pytest.approx(sum(len(text.split()) + 1 for text, _ in PAIRS) / len(PAIRS))


def test_words_are_the_librarys_own_in_english_and_whole_elsewhere():
    from rouge_score.tokenizers import DefaultTokenizer

    english = "Don't stop: 3 of the U.S. co-ops re-open, 25% up!"
    assert Counter(DefaultTokenizer().tokenize(english)) == Counter(words(english))
    assert summaries("s", completions(("größe", "größte")))[0].value == 0.0  # the library's own finds `gr` in both


def test_rows_without_a_reference_are_counted_and_not_scored():
    rouge = summaries("s", completions(("moss", None), ("moss", "...")))[0]
    assert (rouge.value, rouge.n, rouge.unjudged) == (None, 0, 2)
