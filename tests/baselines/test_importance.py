import numpy as np
import pytest

from cisray.baselines.estimators import build_shallow
from cisray.baselines.fitting import fit_shallow, fit_track
from cisray.baselines.gkm_estimator import GkmSvmConfig
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.held_out import accuracy
from cisray.baselines.importance import (
    accuracies,
    coefficients,
    groups_by_pattern,
    groups_of_sets,
    loss_when_removed,
    loss_when_shuffled,
)
from cisray.baselines.windows import Table
from cisray.errors import InputError
from shallow_cases import CONFIGS, GEOMETRY, TEST, TRAIN, VALID, batches, fitted


@pytest.fixture(scope="module")
def models():
    return {name: fitted(name) for name in CONFIGS}


def by_name(importance):
    return dict(zip(importance.names, importance.values[:, 0], strict=True))


def test_coefficients_are_what_was_planted(models):
    found = coefficients(models["linear"])
    assert (found.sort, found.accuracy) == ("subjective", None)
    values = by_name(found)
    assert values["kmers:CG"] == pytest.approx(1, abs=0.1)
    assert values["kmers:AA"] == pytest.approx(-0.5, abs=0.1)
    assert max(abs(value) for name, value in values.items() if name not in ("kmers:CG", "kmers:AA")) < 0.1


@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting"])
def test_trees_gain_most_where_the_signal_is(models, name):
    found = coefficients(models[name])
    assert (found.sort, found.measure) == ("subjective", "share of what all splits gain")
    values = by_name(found)
    assert sum(values.values()) == pytest.approx(1)
    assert sorted(values, key=values.get)[-2:] == ["kmers:AA", "kmers:CG"]


def test_the_lmers_of_a_gapped_kmer_svm_are_named_by_their_scores():
    config = GkmSvmConfig(gkm=GkmSpec(l=4, k=2, d=1), prices=(1.0,))
    model = build_shallow(config, geometry=GEOMETRY, num_tracks=1)
    fit_shallow(model, batches(TRAIN), batches(VALID), kind="measurements")
    values = by_name(coefficients(model))
    scores = model.delta_svm(0).scores
    places = {"".join("ACGT"[word >> place & 3] for place in (6, 4, 2, 0)): word for word in range(4**4)}
    assert values == pytest.approx({name: scores[word] for name, word in places.items()})
    assert "CG" in max(values, key=values.get)
    assert next(iter(values)) == max(values, key=lambda name: abs(values[name]))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_shuffling_what_matters_loses_accuracy_and_the_rest_nothing(models, name):
    found = loss_when_shuffled(models[name], TEST, kind="measurements", repeats=4)
    assert (found.sort, found.measure) == ("objective", "pearson lost when shuffled")
    values = by_name(found)
    assert values["kmers:CG"] > 0.2
    assert sorted(values, key=values.get)[-2:] == ["kmers:AA", "kmers:CG"]
    assert max(value for name, value in values.items() if name not in ("kmers:CG", "kmers:AA")) < 0.03
    assert found.accuracy[0] == pytest.approx(
        accuracy("measurements", models[name].decide(TEST.codes)[:, 0], TEST.targets[:, 0])
    )
    deviations = dict(zip(found.names, found.deviations[:, 0], strict=True))
    assert 0 < deviations["kmers:CG"] < values["kmers:CG"] / 3


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_shuffling_is_what_it_says(models, name):
    groups = {"both": ["kmers:CG", "kmers:TT"]}
    found = loss_when_shuffled(models[name], TEST, kind="measurements", groups=groups, repeats=2, seed=5)
    random, names = np.random.default_rng(5), list(models[name].features.names)
    rows = models[name].features(TEST.codes)
    whole = accuracy("measurements", models[name].decide_rows(rows)[:, 0], TEST.targets[:, 0])
    losses = []
    for _ in range(2):
        moved, order = rows.toarray(), random.permutation(200)
        for feature in groups["both"]:
            moved[:, names.index(feature)] = moved[order, names.index(feature)]
        scores = models[name].decide_rows(type(rows)(moved))
        losses.append(whole - accuracy("measurements", scores[:, 0], TEST.targets[:, 0]))
    assert found.names == ("both",)
    assert found.values[0, 0] == pytest.approx(np.mean(losses), abs=1e-9)
    assert found.deviations[0, 0] == pytest.approx(np.std(losses, ddof=1), abs=1e-9)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_removing_what_matters_loses_accuracy(models, name):
    features = models[name].features.names
    groups = {
        "signal": [feature for feature in features if set("CG") & set(feature.partition(":")[2])],
        "CG": ["kmers:CG"],
        "nothing": ["kmers:GT", "kmers:TG"],
    }
    found = loss_when_removed(models[name], TRAIN, VALID, TEST, kind="measurements", groups=groups)
    assert (found.sort, found.measure) == ("objective", "pearson lost when fitted without")
    values = by_name(found)
    assert values["signal"] > 0.2
    assert values["signal"] > values["CG"] > max(0.02, abs(values["nothing"]))
    assert found.deviations is None
    assert found.accuracy[0] > 0.85


@pytest.mark.parametrize("name", ["linear", "gradient_boosting"])
def test_a_removed_feature_is_as_if_it_had_never_been_counted(models, name):
    model, kind = models[name], "measurements"
    kept = [number for number, feature in enumerate(model.features.names) if feature != "kmers:CG"]
    rows = [model.features(each.codes)[:, kept] for each in (TRAIN, VALID, TEST)]
    fitted = fit_track(CONFIGS[name], Table(rows[0], TRAIN.targets), Table(rows[1], VALID.targets), kind, 0, 0)
    found = loss_when_removed(model, TRAIN, VALID, TEST, kind=kind, groups={"CG": ["kmers:CG"]})
    without = accuracy(kind, fitted.model.decide(rows[2]), TEST.targets[:, 0])
    assert found.accuracy[0] - found.values[0, 0] == pytest.approx(without, abs=1e-4)


def test_what_others_can_stand_in_for_costs_less_to_remove_than_to_shuffle(models):
    # whether a C stands before a G is told, but for the last base, by all other pairs together
    settings = {"kind": "measurements", "groups": {"CG": ["kmers:CG"]}}
    removed = loss_when_removed(models["linear"], TRAIN, VALID, TEST, **settings)
    shuffled = loss_when_shuffled(models["linear"], TEST, **settings)
    assert 0 < removed.values[0, 0] < shuffled.values[0, 0] / 3


def test_features_are_grouped_by_their_set_or_by_patterns():
    names = ["kmers:AA", "kmers:CG", "composition:gc", "kmers:GC"]
    assert groups_of_sets(names) == {"kmers": ["kmers:AA", "kmers:CG", "kmers:GC"], "composition": ["composition:gc"]}
    patterns = {"strong": ["kmers:[CG][CG]", "*gc"], "cg": ["kmers:CG"]}
    assert groups_by_pattern(names, patterns) == {
        "strong": ["kmers:CG", "composition:gc", "kmers:GC"],
        "cg": ["kmers:CG"],
    }


def test_a_feature_loses_the_same_whatever_is_shuffled_beside_it(models):
    whole = by_name(loss_when_shuffled(models["linear"], TEST, kind="measurements", repeats=2))
    alone = loss_when_shuffled(
        models["linear"], TEST, kind="measurements", repeats=2, groups={"one": ["kmers:AA"], "two": ["kmers:TG"]}
    )
    assert [whole["kmers:AA"], whole["kmers:TG"]] == alone.values[:, 0].tolist()


def test_accuracy_over_bins_is_over_all_of_them_together():
    random = np.random.default_rng(0)
    scores, targets = random.normal(size=(2, 5, 3, 2))
    targets[0, 1, 0] = np.nan
    present = ~np.isnan(targets[:, :, 0])
    expected = np.corrcoef(scores[:, :, 0][present], targets[:, :, 0][present])[0, 1]
    assert accuracies("coverage", scores, targets)[0] == pytest.approx(expected)


def test_what_cannot_be_is_refused(models):
    with pytest.raises(InputError, match=r"group odd: no feature 'kmers:XX'; the model has kmers:AA, .*, 16 in all"):
        loss_when_shuffled(models["linear"], TEST, kind="measurements", groups={"odd": ["kmers:XX"]})
    with pytest.raises(InputError, match="group none: no feature at all; the model has"):
        loss_when_removed(models["linear"], TRAIN, VALID, TEST, kind="measurements", groups={"none": []})
    with pytest.raises(InputError, match="repeats=0; wanted at least one shuffle"):
        loss_when_shuffled(models["linear"], TEST, kind="measurements", repeats=0)
    for pattern, told in (("kmers:XX", r"no feature fits 'kmers:XX'"), (None, "names no pattern of features")):
        with pytest.raises(InputError, match=rf"group odd: {told}; the model has kmers:AA, .*, 16 in all"):
            groups_by_pattern(models["linear"].features.names, {"odd": [pattern] if pattern else []})
