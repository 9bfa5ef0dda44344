import json
import shutil
from pathlib import Path

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
from cisray.flows.resources import NoRoomError
from cisray.training.gene_metrics import GeneSpec

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


def test_each_model_reads_the_strands_that_it_learned(
    ray_here, dataset, bundle, ridge, examples, tmp_path, cisray, of_one_strand
):
    out = tmp_path / "measured"
    outcome = cisray("evaluate", of_one_strand(bundle), dataset, "--beside", ridge, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "test split, basenji: forward strand, kmer_ridge: mean of both strands" in outcome.err
    _, predicted, measured = read_predictions(out)
    np.testing.assert_allclose(predicted, Predictor(bundle).predict(examples[0]), rtol=1e-4)
    results = json.loads((out / "evaluation.json").read_text())
    assert {role: one["strands"] for role, one in results["models"].items()} == {"model": "forward", "beside": "both"}
    check_metrics(results["models"]["beside"]["tracks"], read_both_strands(ridge, examples[0]), measured)


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


# --- genes and second measurements

GENES = [  # on sim4, whose windows reach to base 59,392; bins of 16 bp
    *((f"g{number}", [(700 * number + 90, 700 * number + 90 + 40 * (number % 5 + 1))]) for number in range(80)),
    ("two", [(20, 35), (1000, 1300)]),
    ("cut", [(59_000, 59_500)]),
    ("beyond", [(59_400, 59_700)]),
]


@pytest.fixture(scope="module")
def annotation(tmp_path_factory):
    """A GTF file of genes on the contig of the test split, and of one that trains, of the same name without its sim."""
    path = tmp_path_factory.mktemp("genes") / "genes.gtf"
    lines = [
        f'chrSIM4\tme\texon\t{first + 1}\t{last}\t.\t+\t.\tgene_id "{name}"; gene_type "{kind}";\n'
        for name, exons in GENES
        for kind in ["odd" if name == "g7" else "rna"]
        for first, last in exons
    ]
    lines.append('sim1\tme\texon\t1\t900\t.\t+\t.\tgene_id "trains"; gene_type "rna";\n')
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def with_genes(ray_here, dataset, bundle, ridge, annotation, simulated, tmp_path_factory):
    """Both models measured across genes too, one track with another as its second, one with its own file."""
    job = EvaluateJob(
        model=str(bundle),
        beside=str(ridge),
        dataset=str(dataset),
        out=str(tmp_path_factory.mktemp("with_genes") / "evaluation"),
        genes=GeneSpec(file=str(annotation), biotypes=("rna",)),
        ceiling={"plus": str(simulated / "tracks/plus.bw"), "strength": "spacing"},
    )
    return evaluate(job)


@pytest.fixture(scope="module")
def told(with_genes):
    return json.loads((with_genes / "evaluation.json").read_text())


def sum_over_genes(values):
    """Sum values [B, N, T] of the windows of sim4 over the genes that they cover, without cisray: log2(1 + sum)."""
    bins = values.reshape(-1, len(TRACKS)).astype(np.float64)  # side by side from base 0 on
    sums = [
        bins[sorted({base // 16 for first, last in exons for base in range(first, last)})].sum(axis=0)
        for name, exons in GENES
        if name not in ("cut", "beyond", "g7")
    ]
    return np.log2(1 + np.maximum(sums, 0))


def test_genes_are_measured_as_the_predictions_that_were_written_say(with_genes, told, predictions):
    """The rows are those of the evaluation without genes, in which the same model predicts the same windows."""
    _, predicted, measured = read_predictions(with_genes)
    np.testing.assert_array_equal(predicted, predictions[1])
    x, y = sum_over_genes(predicted), sum_over_genes(measured)
    assert np.isfinite(y).all()
    metrics = told["genes"]["models"]["model"]
    for index, track in enumerate(TRACKS):
        assert metrics["tracks"][track]["num_genes"] == len(y) == 80
        pearson = scipy.stats.pearsonr(x[:, index], y[:, index]).statistic
        assert metrics["tracks"][track]["gene_pearson"] == pytest.approx(pearson, abs=1e-5)
        spearman = scipy.stats.spearmanr(x[:, index], y[:, index]).statistic
        assert metrics["tracks"][track]["gene_spearman"] == pytest.approx(spearman, abs=1e-3)
        assert -1 <= metrics["tracks"][track]["gene_specificity"] <= 1
    assert metrics["num_compared"] == 80
    assert -1 <= metrics["track_specificity"] <= 1
    assert list(told["genes"]["models"]) == ["model", "beside"]
    assert told["genes"]["models"]["beside"]["tracks"] != metrics["tracks"]


def test_genes_that_are_not_measured_are_counted(told):
    assert told["genes"]["counts"] == {
        "genes read": 84,
        "genes kept": 83,
        "genes left out: of biotypes that were not asked for": 1,
        "genes under no window": 2,
    }
    assert told["genes"]["part"] == "exons"
    assert told["genes"]["file"] == "genes.gtf"
    assert set(told["genes"]["definitions"]) == {
        "gene_pearson",
        "gene_spearman",
        "gene_specificity",
        "track_specificity",
    }


def test_the_sums_of_genes_are_written_beside_the_predictions(with_genes):
    table = pq.read_table(with_genes / "genes.parquet")
    assert table["id"].to_pylist() == [
        name for name, _ in sorted(GENES, key=lambda one: one[1]) if name not in ("g7", "beyond")
    ]
    assert set(table["contig"].to_pylist()) == {"sim4"}
    covered = np.frombuffer(b"".join(table["covered"].to_pylist()), "<f4").reshape(-1, len(TRACKS))
    assert covered[:-1].min() == 1
    np.testing.assert_allclose(covered[-1], (59_392 - 59_000) / 500)  # the gene that the windows cut


def test_a_second_measurement_stands_beside_the_models(with_genes, told, dataset):
    _, predicted, measured = read_predictions(with_genes)
    ceiling = told["ceiling"]
    assert ceiling["seconds"] == {"plus": "plus.bw", "strength": "spacing"}
    assert list(ceiling["models"]) == ["second", "model", "beside"]
    assert ceiling["models"]["second"]["plus"]["pearson"] == pytest.approx(1)  # the file that the track was made of
    x, y = (measured[:, :, TRACKS.index(name)].ravel() for name in ("spacing", "strength"))
    both = ~np.isnan(x) & ~np.isnan(y)
    expected = scipy.stats.pearsonr(x[both], y[both]).statistic
    assert ceiling["models"]["second"]["strength"]["pearson"] == pytest.approx(expected, abs=1e-5)
    expected = scipy.stats.pearsonr(predicted[:, :, 0].ravel()[both], y[both]).statistic
    assert ceiling["models"]["model"]["strength"]["pearson"] == pytest.approx(expected, abs=1e-5)
    assert ceiling["models"]["model"]["strength"]["num_bins"] == both.sum()


def test_metrics_over_bins_are_those_without_genes(told, results):
    assert told["models"] == results["models"]
    assert "head" not in told


def test_an_evaluation_with_genes_is_not_made_again(with_genes, bundle, ridge, dataset, annotation, simulated):
    job = {
        "model": str(bundle),
        "beside": str(ridge),
        "dataset": str(dataset),
        "out": str(with_genes),
        "ceiling": {"plus": str(simulated / "tracks/plus.bw"), "strength": "spacing"},
    }
    told = []
    same = EvaluateJob(**job, genes=GeneSpec(file=str(annotation), biotypes=("rna",)))
    assert evaluate(same, report=told.append) == with_genes
    assert told == []
    for other in (None, GeneSpec(file=str(annotation)), GeneSpec(file=str(annotation), biotypes=("rna",), part="span")):
        with pytest.raises(InputError, match="was not made by this job"):
            evaluate(EvaluateJob(**job, genes=other))


def test_genes_of_labels_or_of_no_window_are_refused(dataset, bundle, annotation, changed, tmp_path):
    out = tmp_path / "out"

    def ask(folder, path):
        return EvaluateJob(model=str(bundle), dataset=str(folder), out=str(out), genes=GeneSpec(file=str(path)))

    with pytest.raises(
        InputError, match=r"nowhere\.gtf: no such file, but a gene annotation \(GTF or GFF3\) was expected"
    ):
        evaluate(ask(dataset, tmp_path / "nowhere.gtf"))
    (tmp_path / "far.gtf").write_text(annotation.read_text().splitlines()[-1])
    with pytest.raises(InputError, match=r"far\.gtf: none of its 1 genes lies under a window of the test split"):
        evaluate(ask(dataset, tmp_path / "far.gtf"))
    with pytest.raises(InputError, match="genes: the dataset's targets are labels; sums over genes are of coverage"):
        evaluate(ask(changed(lambda card: card.update(kind="labels")), annotation))
    assert not list(tmp_path.glob("out*"))


def test_a_gpu_that_is_not_there_is_asked_for_in_vain(ray_here, dataset, bundle, tmp_path):
    job = EvaluateJob(model=str(bundle), dataset=str(dataset), out=str(tmp_path / "out"), use_gpu=True)
    assert job.resources.gpus_per_actor == 1
    with pytest.raises(NoRoomError, match="a worker takes 1 CPU, 1 GPU, and no node has 1 GPU; there is: 1 node of "):
        evaluate(job)
    assert not (tmp_path / "out").exists()


def test_one_head_of_several_is_measured(ray_here, dataset, two_heads, ridge, examples, tmp_path):
    job = EvaluateJob(
        model=str(two_heads),
        head="mouse",
        beside=str(ridge),
        dataset=str(dataset),
        out=str(tmp_path / "one"),
        strands="forward",
    )
    folder = evaluate(job)
    _, predicted, _ = read_predictions(folder)
    np.testing.assert_allclose(predicted, Predictor(two_heads, head="mouse").predict(examples[0]), rtol=1e-4)
    told = json.loads((folder / "evaluation.json").read_text())
    assert told["head"] == "mouse"
    check_metrics(told["models"]["beside"]["tracks"], Predictor(ridge).predict(examples[0]), examples[1])


def test_the_head_that_is_meant_must_be_named_and_fit(dataset, two_heads, bundle, tmp_path):
    def ask(model, head):
        return EvaluateJob(model=str(model), head=head, dataset=str(dataset), out=str(tmp_path / "out"))

    for model, head, match in (
        (two_heads, None, r"this bundle has several heads; add head=\.\.\., it has human, mouse"),
        (two_heads, "rat", "this bundle has no head 'rat'; it has human, mouse"),
        (bundle, "rat", "rat"),
        (two_heads, "human", r"predicts the tracks \['strength'\], the dataset has"),
    ):
        with pytest.raises(InputError, match=match):
            evaluate(ask(model, head))
    assert not list(tmp_path.iterdir())


def test_what_a_model_began_with_is_known_by_its_bases(dataset, two_heads, tmp_path):
    job = EvaluateJob(model=str(tmp_path / "two"), head="mouse", dataset=str(dataset), out=str(tmp_path / "out"))
    folder = Path(shutil.copytree(two_heads, job.model))
    card = (folder / "cards/human.json").read_text()
    renamed = json.loads(card.replace('"sim4', '"another'))
    renamed["regions"]["train"].append("another:10000-20000")
    (folder / "cards/human.json").write_text(json.dumps(renamed))
    with pytest.raises(InputError, match="another:10000-20000 is in its train split, and sim4:0-60000 would be"):
        evaluate(job)
    (folder / "cards/human.json").write_text(card)
    model = json.loads((folder / "model.json").read_text())
    digest = json.loads(card)["genome"]["contig_digests"]["sim4"]
    model["made_by"]["started"] = {"seen": [["valid", "four", digest, 0, 5], ["train", "four", "other", 0, 5]]}
    (folder / "model.json").write_text(json.dumps(model))
    with pytest.raises(InputError, match="four:0-5 is in the valid split of a model that it began with, and sim4:0-6"):
        evaluate(job)


def test_what_any_head_learned_from_is_not_measured_on(dataset, two_heads, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(two_heads, folder)
    card = json.loads((folder / "cards/human.json").read_text())
    card["regions"]["train"].append("sim4:10000-20000")
    (folder / "cards/human.json").write_text(json.dumps(card))
    job = EvaluateJob(model=str(folder), head="mouse", dataset=str(dataset), out=str(tmp_path / "out"))
    with pytest.raises(InputError, match="sim4:10000-20000 is in its train split, and sim4:0-60000 would be measured"):
        evaluate(job)
