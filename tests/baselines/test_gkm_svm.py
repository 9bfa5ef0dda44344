import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_kernel import kernel_matrix
from cisray.baselines.gkm_svm import GkmModel, SvmSpec, cross_validate, solve, train_gkm
from cisray.genome.sequence import decode, encode, reverse_complement

SPEC = GkmSpec(l=6, k=4, d=2)


def planted(num, seed=0, *, motif="TGACTCAG", changes=1):
    """Draw random sequences, every second with a motif on either strand in which some bases are changed."""
    random = np.random.default_rng(seed)
    labels = np.tile([1, -1], num // 2)
    sequences = []
    for label in labels:
        codes = random.integers(0, 4, random.integers(30, 50)).astype(np.uint8)
        if label > 0:
            start = random.integers(0, len(codes) - len(motif))
            codes[start : start + len(motif)] = encode(motif)
            codes[start + random.choice(len(motif), changes, replace=False)] = random.integers(0, 4, changes)
        sequences.append(reverse_complement(codes) if random.random() < 0.5 else codes)
    return sequences, labels


def test_a_planted_motif_is_found():
    sequences, labels = planted(160)
    model = train_gkm(sequences, labels, spec=SPEC, svm=SvmSpec())
    fresh, truth = planted(100, seed=1)
    scores = model.table().score(fresh)
    assert roc_auc_score(truth, scores) > 0.9
    # the change that breaks the motif loses most
    delta_svm = model.table().delta_svm()
    reference = np.tile(encode("ACATACTGACTCAGATTACA"), (20, 1))
    alternate = reference.copy()
    alternate[np.arange(20), np.arange(20)] = (alternate[np.arange(20), np.arange(20)] + 2) % 4
    assert delta_svm.delta(reference, alternate).argmin() in range(6, 14)


def test_support_vectors_fulfil_the_conditions_of_the_optimum():
    sequences, labels = planted(60)
    svm = SvmSpec(c=0.7, tolerance=1e-6, positive_weight=2.0)
    model = train_gkm(sequences, labels, spec=SPEC, svm=svm)
    margins = labels * model.table().score(sequences)
    support = {codes.tobytes(): coefficient for codes, coefficient in zip(*model[1:3], strict=True)}
    alphas = np.array([support.get(codes.tobytes(), 0.0) for codes in sequences]) * labels
    prices = np.where(labels > 0, 1.4, 0.7)
    free = (alphas > 1e-9) & (alphas < prices - 1e-9)
    assert (alphas >= 0).all()
    assert (alphas <= prices + 1e-9).all()
    assert free.sum() > 10
    np.testing.assert_allclose(margins[free], 1, atol=1e-4)
    assert (margins[alphas <= 1e-9] > 1 - 1e-4).all()
    assert (margins[alphas >= prices - 1e-9] < 1 + 1e-4).all()
    assert alphas @ labels == pytest.approx(0, abs=1e-9)


def test_without_gaps_it_is_the_svm_of_normalised_kmer_counts():
    sequences, labels = planted(60)
    counts = np.zeros((60, 64))
    for row, codes in enumerate(sequences):
        for text in (decode(codes), decode(reverse_complement(codes))):
            for start in range(len(text) - 2):
                counts[row, int(text[start : start + 3].translate(str.maketrans("ACGT", "0123")), 4)] += 1
    features = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    expected = SVC(kernel="linear", tol=1e-8).fit(features, labels).decision_function(features)
    spec = GkmSpec(l=3, k=3, d=0, kernel="gkm_count")
    model = train_gkm(sequences, labels, spec=spec, svm=SvmSpec(tolerance=1e-8))
    np.testing.assert_allclose(model.table().score(sequences), expected, atol=1e-4)


def test_cross_validation_scores_what_was_held_out():
    sequences, labels = planted(60, changes=0)
    folds = np.arange(60) // 2 % 3
    scores = cross_validate(sequences, labels, folds, spec=SPEC, svm=SvmSpec())
    for fold in range(3):
        train = [codes for codes, number in zip(sequences, folds, strict=True) if number != fold]
        model = train_gkm(train, labels[folds != fold], spec=SPEC, svm=SvmSpec())
        held_out = [codes for codes, number in zip(sequences, folds, strict=True) if number == fold]
        np.testing.assert_allclose(scores[folds == fold], model.table().score(held_out), atol=3e-3)


def test_values_are_learned_within_epsilon():
    sequences, labels = planted(80, changes=0)
    values = 3.0 + labels * 0.5
    svm = SvmSpec(task="values", c=100.0, epsilon=0.05)
    scores = train_gkm(sequences, values, spec=SPEC, svm=svm).table().score(sequences)
    assert np.abs(scores - values).max() < 0.052
    solution = solve(kernel_matrix(sequences, spec=SPEC), values, svm)
    np.testing.assert_allclose(solution.decide(kernel_matrix(sequences, spec=SPEC)), scores, atol=1e-4)


def test_a_model_comes_back_from_its_arrays():
    sequences, labels = planted(20)
    model = train_gkm(sequences, labels, spec=SPEC, svm=SvmSpec())
    again = GkmModel.from_state(SPEC, model.state())
    assert [codes.tolist() for codes in again.sequences] == [codes.tolist() for codes in model.sequences]
    np.testing.assert_array_equal(again.table().score(sequences), model.table().score(sequences))
    broken = model.state() | {"gkm.lengths": np.array([5])}
    with pytest.raises(ValueError, match=r"has 1 support vectors of 5 bases in all, but \d+ coefficients and"):
        GkmModel.from_state(SPEC, broken)
    with pytest.raises(ValueError, match=r"lacks gkm.lengths; it has gkm.sequences, gkm.coefficients, gkm.rho"):
        GkmModel.from_state(SPEC, {name: array for name, array in model.state().items() if name != "gkm.lengths"})


def test_labels_that_teach_nothing_are_refused():
    sequences, labels = planted(6)
    svm = SvmSpec()
    with pytest.raises(ValueError, match="all 6 labels are of one class; wanted some above 0 and some not"):
        train_gkm(sequences, np.ones(6), spec=SPEC, svm=svm)
    with pytest.raises(ValueError, match=r"labels of shape \(5,\), 0 of them not finite, for 6 sequences"):
        train_gkm(sequences, labels[:5], spec=SPEC, svm=svm)
    with pytest.raises(ValueError, match="1 of them not finite, for 6 sequences; wanted one number for each"):
        train_gkm(sequences, np.where(np.arange(6) == 2, np.nan, labels), spec=SPEC, svm=svm)
    with pytest.raises(ValueError, match="1 folds of 6 numbers; wanted two or more, of 6 sequences"):
        cross_validate(sequences, labels, np.zeros(6, np.int64), spec=SPEC, svm=svm)
    with pytest.raises(ValueError, match="2 folds of 4 numbers; wanted two or more, of 6 sequences"):
        cross_validate(sequences, labels, np.array([0, 0, 1, 1]), spec=SPEC, svm=svm)
    with pytest.raises(ValueError, match="all 3 labels are of one class"):
        cross_validate(sequences, labels, (labels > 0).astype(np.int64), spec=SPEC, svm=svm)


@pytest.mark.parametrize("fields", [{"c": 0}, {"tolerance": 0}, {"positive_weight": -1}])
def test_prices_have_to_be_positive(fields):
    with pytest.raises(ValidationError, match="wanted a positive number"):
        SvmSpec(**fields)


def test_a_negative_epsilon_is_refused():
    with pytest.raises(ValidationError, match=r"epsilon=-0.1; wanted zero or more"):
        SvmSpec(epsilon=-0.1)
