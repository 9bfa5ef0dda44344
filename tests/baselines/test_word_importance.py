import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.baselines.held_out import accuracy
from cisray.baselines.windows import Windows
from cisray.baselines.word_importance import (
    all_words,
    change_without_words,
    check_word,
    loss_without_words,
    mask_words,
)
from cisray.errors import InputError

LENGTH = 40
BASES = {"R": "AG", "Y": "CT", "W": "AT", "N": "ACGT"} | {base: base for base in "ACGT"}


def make_windows(num, seed):
    """Make windows whose number is how often CG stands there, less half of how often AA does, with noise."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (num, LENGTH), np.uint8)
    texts = ["".join("ACGT"[code] for code in row) for row in codes]
    signal = np.array([text.count("CG") - 0.5 * text.count("AA") for text in texts])
    return Windows(codes, (signal + random.normal(0, 0.3, num)).astype(np.float32)[:, None])


TEST = make_windows(200, 2)


def test_masking_a_word_asks_any_model():
    def predict(codes):
        texts = ["".join("ACGTN"[code] for code in row) for row in codes]
        return np.array([[text.count("CG") - 0.5 * text.count("AA")] for text in texts])

    found = loss_without_words(predict, TEST, ["CG", "AC"], kind="measurements")
    assert (found.sort, found.names) == ("objective", ("CG", "AC"))
    assert found.values[0, 0] > 0.3
    masked = TEST.codes.copy()
    texts = ["".join("ACGT"[code] for code in row) for row in masked]
    for row, text in enumerate(texts):
        for at in range(LENGTH - 1):
            if text[at : at + 2] in ("AC", "GT"):
                masked[row, at : at + 2] = 4
    expected = found.accuracy[0] - accuracy("measurements", predict(masked)[:, 0], TEST.targets[:, 0])
    assert found.values[1, 0] == pytest.approx(expected)


def test_the_fall_of_the_output_is_subjective_and_over_windows_with_the_word():
    def predict(codes):
        return np.stack([(codes == 3).sum(axis=1), (codes == 0).sum(axis=1)], axis=1).astype(float)

    codes = np.array([[3, 3, 1, 1], [0, 2, 2, 2], [1, 1, 1, 1]], np.uint8)
    found = change_without_words(predict, codes, ["TT", "G", "ACGT"])
    assert found.sort == "subjective"
    assert found.values[:2].tolist() == [[2.0, 0.0], [0.0, 0.0]]
    assert np.isnan(found.values[2]).all()
    both = change_without_words(predict, codes, ["A"])  # its other strand is T
    assert both.values.tolist() == [[1.0, 0.5]]
    assert both.deviations.tolist() == [[1.0, 0.5]]


def mask_by_hand(text, word):
    """Mask a word in a text, base by base, without arrays."""
    turned = [set(BASES[letter].translate(str.maketrans("ACGT", "TGCA"))) for letter in reversed(word)]
    masked = list(text)
    for strand in ([set(BASES[letter]) for letter in word], turned):
        for at in range(len(text) - len(word) + 1):
            if all(base in fits or len(fits) == 4 for base, fits in zip(text[at:], strand, strict=False)):
                masked[at : at + len(word)] = "N" * len(word)
    return "".join(masked)


@given(
    st.lists(st.text("ACGTN", min_size=12, max_size=12), min_size=1, max_size=6),
    st.text("ACGTRYWN", min_size=1, max_size=5).filter(lambda word: word.strip("N")),
)
def test_a_word_of_several_bases_is_masked_as_by_hand(texts, word):
    codes = np.array([["ACGTN".index(base) for base in text] for text in texts], np.uint8)
    ((held, masked),) = mask_words(codes, [word])
    by_hand = [mask_by_hand(text, word) for text in texts]
    assert held.tolist() == [one != text for one, text in zip(by_hand, texts, strict=True)]
    found = ["".join("ACGTN"[code] for code in row) for row in masked]
    assert found == [one for one, is_held in zip(by_hand, held, strict=True) if is_held]


def test_a_model_of_bins_is_asked_over_all_of_them():
    codes = TEST.codes[:50]

    def predict(codes):
        return np.stack([(codes[:, :20] == 2).sum(axis=1), (codes[:, 20:] == 2).sum(axis=1)], axis=1)[:, :, None] * 1.0

    windows = Windows(codes, predict(codes) + 1)
    found = loss_without_words(predict, windows, ["G", "A"], kind="coverage")
    assert found.accuracy.tolist() == pytest.approx([1.0])
    assert np.isnan(found.values[0, 0])  # nothing is left that differs
    assert 0 <= found.values[1, 0] < 0.01  # its other strand is T
    change = change_without_words(predict, codes, ["G"])
    assert change.values[0, 0] == pytest.approx((codes == 2).sum(axis=1).mean() / 2)
    assert change.num_windows.tolist() == [50]


def test_windows_without_the_word_are_not_read_again():
    asked = []

    def predict(codes):
        asked.append(len(codes))
        return (codes == 0).sum(axis=1)[:, None] * 1.0

    codes = np.array([[0, 0, 1], [1, 1, 1], [2, 0, 1]], np.uint8)
    found = loss_without_words(predict, Windows(codes, predict(codes)), ["AAC", "TTT"], kind="measurements")
    assert asked[1:] == [3, 1]
    assert found.num_windows.tolist() == [1, 0]


def test_all_words_are_those_of_both_strands():
    words = all_words(3)
    assert len(words) == 32
    turned = {word.translate(str.maketrans("ACGT", "TGCA"))[::-1] for word in words}
    assert len(turned | set(words)) == 64
    assert len(all_words(4)) == 136


def test_what_is_no_word_is_refused():
    for word in ("ACX", "", "AC-", "NN", "acg"):
        with pytest.raises(InputError, match=rf"word {word!r}; wanted letters ACGT, or RYSWKMBDHVN"):
            loss_without_words(lambda codes: codes[:, :1], TEST, [word], kind="measurements")
        with pytest.raises(InputError, match="and one at least that is not N"):
            check_word(word)
    with pytest.raises(InputError, match="word_bp=7; wanted 1 to 6 bases: name longer words by themselves"):
        all_words(7)
