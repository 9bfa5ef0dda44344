import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyBigWig
import pytest
import scipy.stats
from sklearn.metrics import r2_score

from cisray.bundle import Predictor
from cisray.datasets.card import read_card
from cisray.datasets.schema import decode_examples, iter_examples, layout_of
from cisray.errors import InputError
from cisray.flows.evaluate import EvaluateJob, evaluate

pytestmark = pytest.mark.ray
TRACKS = ["strength", "spacing", "plus", "minus"]
OTHER_STRAND = [0, 1, 3, 2]  # plus and minus change places


def read_predictions(folder):
    """Read predictions without cisray: positions, predicted and measured [B, N, T], in genome order."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted((folder / "predictions").iterdir())])
    table = table.sort_by([("contig", "ascending"), ("start", "ascending")])
    arrays = []
    for name in ("prediction", "measured"):
        shape = json.loads(table.schema.field(name).metadata[b"shape"])
        arrays.append(np.frombuffer(b"".join(table[name].to_pylist()), "<f4").reshape(len(table), *shape))
    return table, *arrays


@pytest.fixture(scope="module")
def predictions(evaluation):
    return read_predictions(evaluation)


@pytest.fixture(scope="module")
def results(evaluation):
    return json.loads((evaluation / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def examples(dataset):
    """The windows and targets of the test split."""
    card = read_card(dataset)
    tables = pa.concat_tables(iter_examples(dataset, card, "test", batch_size=999))
    examples = decode_examples(tables, layout_of(card))
    return examples.codes[:, 16:-16].copy(), examples.targets


def read_both_strands(bundle, codes):
    """Average a network's reading of a window and of its reverse complement, turned back."""
    predictor = Predictor(bundle)
    forward = predictor.predict(codes)
    backward = predictor.predict((3 - codes)[:, ::-1])  # there is no N in the test split
    return (forward + backward[:, ::-1, OTHER_STRAND]) / 2


def check_metrics(told, predicted, measured):
    for index, track in enumerate(TRACKS):
        x, y = (values[:, :, index].astype(np.float64).ravel() for values in (predicted, measured))
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        assert told[track]["num_bins"] == len(y)
        assert told[track]["pearson"] == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-6)
        log = scipy.stats.pearsonr(np.log1p(np.maximum(x, 0)), np.log1p(y)).statistic
        assert told[track]["pearson_log1p"] == pytest.approx(log, abs=1e-6)
        assert told[track]["r2"] == pytest.approx(r2_score(y, x), abs=1e-6)


def test_metrics_are_those_of_the_predictions_that_were_written(results, predictions):
    _, predicted, measured = predictions
    check_metrics(results["models"]["model"]["tracks"], predicted, measured)
    assert (results["split"], results["strands"]) == ("test", "both")
    assert set(results["definitions"]) == {"pearson", "pearson_log1p", "r2"}


def test_the_model_beside_is_measured_on_the_same_bins(results, ridge, examples):
    codes, targets = examples
    assert results["models"]["beside"]["architecture"] == "kmer_ridge"
    check_metrics(results["models"]["beside"]["tracks"], read_both_strands(ridge, codes), targets)


def test_predictions_are_the_mean_of_both_strands_and_keyed_like_the_rows(predictions, examples, bundle, dataset):
    table, predicted, measured = predictions
    assert table["contig"].to_pylist() == ["sim4"] * 58
    assert table["start"].to_pylist() == [1024 * index for index in range(58)]
    np.testing.assert_array_equal(measured, examples[1])
    np.testing.assert_allclose(predicted, read_both_strands(bundle, examples[0]), rtol=1e-4)
    assert not np.allclose(predicted, Predictor(bundle).predict(examples[0]), rtol=1e-2)


def test_one_strand_alone_is_the_forward_one(ray_here, dataset, bundle, examples, tmp_path):
    job = EvaluateJob(
        model=str(bundle), dataset=str(dataset), out=str(tmp_path / "one"), strands="forward", split="test"
    )
    folder = evaluate(job)
    _, predicted, _ = read_predictions(folder)
    np.testing.assert_allclose(predicted, Predictor(bundle).predict(examples[0]), rtol=1e-4)
    told = json.loads((folder / "evaluation.json").read_text())
    assert list(told["models"]) == ["model"]
    assert not (folder / "bigwig").exists()


@pytest.mark.parametrize(("kind", "column"), [("predicted", 1), ("measured", 2)])
def test_bigwigs_hold_what_the_rows_hold(evaluation, predictions, kind, column):
    assert len(list((evaluation / "bigwig").iterdir())) == 2 * len(TRACKS)
    for index, track in enumerate(TRACKS):
        with pyBigWig.open(str(evaluation / f"bigwig/{track}.{kind}.bw")) as file:
            assert file.chroms()["sim4"] == 60_000
            values = np.array(file.values("sim4", 0, 58 * 1024))
            assert file.intervals("sim1") is None
        bins = values.reshape(-1, 16)
        np.testing.assert_array_equal(bins, bins[:, :1].repeat(16, axis=1))
        np.testing.assert_allclose(bins[:, 0], predictions[column][:, :, index].ravel(), rtol=1e-6)


def test_a_finished_evaluation_is_not_made_again_and_another_is_refused(evaluation, bundle, ridge, dataset, bytes_of):
    job = {"model": str(bundle), "beside": str(ridge), "dataset": str(dataset), "out": str(evaluation), "bigwig": True}
    told, before = [], bytes_of(evaluation)
    assert evaluate(EvaluateJob(**job), report=told.append) == evaluation
    assert told == []
    with pytest.raises(InputError, match="was not made by this job"):
        evaluate(EvaluateJob(**job, strands="forward"))
    assert bytes_of(evaluation) == before


@pytest.fixture
def changed(dataset, tmp_path):
    """Make a dataset of the same rows whose card differs."""

    def make(change):
        folder = tmp_path / "changed"
        shutil.copytree(dataset, folder)
        card = json.loads((folder / "card.json").read_text())
        change(card)
        (folder / "card.json").write_text(json.dumps(card))
        return folder

    return make


def rename_track(card):
    card["tracks"][1]["name"] = "other"


def crop(card):
    card["geometry"]["crop_bins"] = 4


def move_test_region(card):
    card["regions"]["test"] = ["sim2:0-50000"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_track, r"predicts the tracks .*'spacing'.*, the dataset has .*'other'"),
        (crop, r"has the geometry .*, the dataset .*crop_bins=4.*build the dataset with the model's geometry"),
        (
            move_test_region,
            r"sim2:0-200000 is in its train split, and sim2:0-50000 would be measured as test; use a dataset made",
        ),
    ],
)
def test_a_model_that_does_not_belong_to_the_dataset_is_refused(changed, bundle, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        evaluate(EvaluateJob(model=str(bundle), dataset=str(changed(change)), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.unfinished").exists()


def test_the_model_beside_is_checked_as_strictly(dataset, bundle, ridge, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ridge, other)
    card = json.loads((other / "card.json").read_text())
    card["regions"]["train"].append("sim4:10000-20000")  # within what the dataset would measure
    (other / "card.json").write_text(json.dumps(card))
    job = EvaluateJob(model=str(bundle), beside=str(other), dataset=str(dataset), out=str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"would be measured as test; use a dataset made with the same folds"):
        evaluate(job)
    assert not (tmp_path / "out").exists()


def test_a_damaged_dataset_is_not_measured_on(ray_here, changed, bundle, tmp_path):
    folder = changed(lambda card: None)
    part = min((folder / "examples/split=test").iterdir())
    part.write_bytes(part.read_bytes()[:-64])
    with pytest.raises(InputError, match=rf"{part.name}: its checksum is not the one in card\.json"):
        evaluate(EvaluateJob(model=str(bundle), dataset=str(folder), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_results_name_the_model_they_are_of(results, bundle):
    assert results["models"]["model"]["digest"] == Predictor(bundle).digest
    weights = sum(weight.numel() for weight in Predictor(bundle).network.parameters())
    assert results["models"]["model"]["num_parameters"] == weights
