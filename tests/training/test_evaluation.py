import json

import numpy as np
import pytest
import scipy.stats
import torch

from cisray.training.evaluation import EvaluationSums
from cisray.training.gene_metrics import GeneBins

ROLES = ["model", "beside"]
BINS = GeneBins(np.array([0, 1, 5, 5]), np.array([0, 0, 2, 1]), np.array([1.0, 0.5, 1, 1]), np.array([2, 1, 2, 1]))


def draw(seed, shape=(6, 4, 3)):
    random = np.random.default_rng(seed)
    measured = random.gamma(2, 2, shape)
    predicted = {role: measured * random.lognormal(0, 0.5, shape) for role in ROLES}
    second = measured[:, :, [2, 0]] * random.lognormal(0, 0.2, (*shape[:2], 2))
    measured[random.random(shape) < 0.1] = np.nan
    second[random.random(second.shape) < 0.2] = np.nan
    as_tensor = {role: torch.from_numpy(values).float() for role, values in predicted.items()}
    return as_tensor, torch.from_numpy(measured).float(), torch.from_numpy(second).float()


def fill(card, predicted, measured, second):
    sums = EvaluationSums(card, ROLES, num_genes=3, ceiling=["both", "fwd"])
    sums.update_ceiling(second, measured)
    for role in ROLES:
        sums.update(role, predicted[role], measured, second)
        sums.update_genes(role, predicted[role], measured, BINS)
    return sums


def test_parts_add_up_through_json_to_the_whole(make_card):
    card = make_card()
    predicted, measured, second = draw(0)
    whole = fill(card, predicted, measured, second)
    total = EvaluationSums(card, ROLES, num_genes=3, ceiling=["both", "fwd"])
    for part in (slice(0, 3), slice(3, 6)):
        one = fill(card, {role: values[part] for role, values in predicted.items()}, measured[part], second[part])
        total.add_plain(json.loads(json.dumps(one.to_plain())))
    for role in ROLES:
        for track, metrics in whole.metrics(role).items():
            assert total.metrics(role)[track] == pytest.approx(metrics)
    for role, of_role in whole.ceiling_metrics().items():
        for track, metrics in of_role.items():
            assert total.ceiling_metrics()[role][track] == pytest.approx(metrics)


def test_a_ceiling_is_measured_on_the_bins_that_both_have_and_the_models_too(make_card):
    predicted, measured, second = draw(1)
    told = fill(make_card(), predicted, measured, second).ceiling_metrics()
    assert list(told) == ["second", *ROLES]
    for place, (track, index) in enumerate({"both": 2, "fwd": 0}.items()):
        y, other = measured[:, :, index].numpy().ravel(), second[:, :, place].numpy().ravel()
        both = ~np.isnan(y) & ~np.isnan(other)
        assert 0 < both.sum() < (~np.isnan(y)).sum()
        for role, x in {
            "second": other,
            **{role: predicted[role][:, :, index].numpy().ravel() for role in ROLES},
        }.items():
            assert list(told[role][track]) == ["num_bins", "pearson", "pearson_log1p"]
            assert told[role][track]["num_bins"] == both.sum()
            expected = scipy.stats.pearsonr(x[both], y[both]).statistic
            assert told[role][track]["pearson"] == pytest.approx(expected, abs=1e-6)
            expected = scipy.stats.pearsonr(np.log1p(x[both]), np.log1p(y[both])).statistic
            assert told[role][track]["pearson_log1p"] == pytest.approx(expected, abs=1e-6)


def test_metrics_are_of_all_bins_whatever_a_second_measurement_lacks(make_card):
    predicted, measured, second = draw(2)
    with_second = fill(make_card(), predicted, measured, second)
    alone = EvaluationSums(make_card(), ["model"])
    alone.update("model", predicted["model"], measured)
    assert alone.metrics("model") == with_second.metrics("model")
    assert alone.to_plain()["genes"] == alone.to_plain()["ceiling"] == {}
    assert alone.ceiling_metrics() == {}


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("coverage", ["num_bins", "pearson", "r2", "pearson_log1p"]),
        ("measurements", ["num_bins", "pearson", "r2"]),
        ("labels", ["num_bins", "pearson", "r2", "auroc", "average_precision"]),
    ],
)
def test_each_kind_of_targets_has_its_metrics(make_card, kind, metrics):
    sums = EvaluationSums(make_card(kind=kind), ["model"], ceiling=["fwd"])
    labels = (torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    second = labels[:, :, :1].clone()
    sums.update("model", labels * 0.5 + 0.1, labels, second)
    sums.update_ceiling(second, labels)
    assert list(sums.metrics("model")["fwd"]) == metrics
    again = EvaluationSums(make_card(kind=kind), ["model"], ceiling=["fwd"])
    again.add_plain(json.loads(json.dumps(sums.to_plain())))
    assert again.metrics("model") == sums.metrics("model")
    assert again.ceiling_metrics()["second"]["fwd"]["pearson"] == pytest.approx(1)


def test_genes_are_compared_per_model_and_what_cannot_be_told_is_none(make_card):
    predicted, measured, second = draw(3)
    sums = fill(make_card(), predicted, measured.nan_to_num(1.0), second)
    told = sums.gene_metrics(np.array([3, 1, 2]), least_covered=1.0)
    assert list(told) == ROLES
    assert list(told["model"]["tracks"]) == ["fwd", "rev", "both"]
    assert told["model"]["tracks"]["fwd"]["num_genes"] == 3
    assert told["model"]["num_compared"] == 3
    x, y = (
        values[0, :2, 0].double() @ torch.tensor([1, 0.5]).double()
        for values in (predicted["model"], measured.nan_to_num(1.0))
    )
    assert sums.genes["model"].sums[:2, 0, 0].tolist() == pytest.approx([float(x), float(y)])
    told = sums.gene_metrics(np.array([4, 2, 4]), least_covered=1.0)
    assert told["beside"] == {
        "tracks": {
            name: {"num_genes": 0, "gene_pearson": None, "gene_spearman": None, "gene_specificity": None}
            for name in ("fwd", "rev", "both")
        },
        "num_compared": 0,
        "track_specificity": None,
        "num_across": 0,
    }
