"""What a person meets on the command line: help, one clear message for bad input, and paths that are there."""

import json
import os
import pickle
import re
import shutil
import struct
import tomllib
from pathlib import Path

import pysam
import pytest

from cisray import __version__
from cisray.config import check_settings
from cisray.models.bpnet import CHROMBPNET
from cisray.models.catalog import NetworkConfig
from whole_program import JOBS

pytestmark = pytest.mark.ray
VERBS = {
    "simulate": ["DIR", "--seed"],
    "build": ["JOB.toml", "--set", "--dry-run"],
    "train": ["JOB.toml", "--set"],
    "sweep": ["JOB.toml", "--set", "--on", "--in"],
    "swap": ["JOB.toml", "--set"],
    "models": ["published"],
    "import-weights": ["JOB.toml", "--set"],
    "evaluate": ["MODEL", "DATASET", "--out", "--split", "--head", "--beside", "--genes", "--ceiling", "--bigwig"],
    "importance": ["MODEL", "DATASET", "--out", "--by", "--word", "--groups"],
    "mine": ["MODEL", "JOB.toml", "--out", "--top", "--earlier"],
    "score": ["JOB.toml", "--set"],
    "export": ["DATASET", "--out", "--extent", "--folds"],
    "report": ["DIR", "--truth"],
    "jobs": ["--on"],
    "logs": ["ID", "--on"],
    "stop": ["ID", "--on"],
}


@pytest.fixture
def refused(cisray, store):
    """Call the command line with bad input, and return the one message that it must end with."""

    def call(*arguments):
        code, out, err = cisray(*arguments)
        assert code == 2, out + err
        assert "Traceback" not in out + err
        messages = err[err.index("cisray: ") :]
        assert err.count("cisray: ") == 1
        assert messages.strip() == messages.splitlines()[0].strip(), "one line, and the last one"
        return messages.strip()

    return call


def build_settings(data_dir, out):
    return ["build", JOBS / "dataset.toml", "--set", f"data_dir={data_dir}", "--set", f"out={out}"]


def train_settings(dataset, out):
    return ["train", JOBS / "train.toml", "--set", f"dataset={dataset}", "--set", f"out={out}"]


def score_settings(data_dir, model, out):
    places = {"data_dir": data_dir, "model": model, "out": out}
    return ["score", JOBS / "score.toml", *(part for name in places for part in ("--set", f"{name}={places[name]}"))]


@pytest.fixture
def inputs(simulated, tmp_path):
    """A copy of the simulated genome, to be damaged."""
    folder = tmp_path / "inputs"
    shutil.copytree(simulated, folder)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_tells_what_it_takes(cisray, verb):
    outcome = cisray(verb, "--help")
    assert outcome.code == 0
    assert f"cisray {verb}" in outcome.out
    for word in VERBS[verb]:
        assert word in outcome.out


def test_the_program_tells_its_verbs_and_its_version(cisray):
    outcome = cisray("--help")
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in VERBS)
    assert cisray("--version").out == f"cisray {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["build"], ["bild"], ["train", "a.toml", "--epochs", "3"], ["evaluate", "model", "dataset"]]
)
def test_a_call_that_is_no_call_ends_with_usage(cisray, arguments):
    outcome = cisray(*arguments)
    assert outcome.code == 2
    assert "Usage" in outcome.err
    assert "Traceback" not in outcome.err


# --- the job file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nepocs = 3\n", ["job.toml", "training.epocs", "did you mean training.epochs?"]),
        ("[training]\nepochs = 'three'\n", ["job.toml", "training.epochs", "'three'"]),
        ("[training\n", ["job.toml", "not valid TOML", "line 5"]),
    ],
)
def test_a_wrong_job_file_is_named_with_the_key_that_is_wrong(refused, tmp_path, text, words):
    job_path = tmp_path / "job.toml"
    head = f'name = "n"\ndataset = "{tmp_path}/d"\nout = "{tmp_path}/o"\nmodel.architecture = "basenji"\n'
    job_path.write_text(head + text)
    message = refused("train", job_path)
    assert all(word in message for word in words), message


def test_a_job_file_that_is_not_there_is_named(refused, tmp_path):
    assert "nowhere.toml: no such job file" in refused("build", tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs", ["--set 'epochs'", "wanted key=value"]),
        ("=3", ["--set '=3'", "wanted key=value"]),
        ("name.first=3", ["--set 'name.first=3'", "name is a value, not a section"]),
        ("training.epoch=3", ["unknown key training.epoch", "did you mean training.epochs?"]),
        ("training.epochs=-1", ["epochs=-1", "positive"]),
        ("model.architecture=alphagenome", ["train.toml", "model", "enformer", "deepbind"]),
    ],
)
def test_a_setting_that_is_nonsense_is_refused(refused, tmp_path, override, words):
    message = refused(*train_settings(tmp_path / "d", tmp_path / "o"), "--set", override)
    assert all(word in message for word in words), message
    assert list(tmp_path.iterdir()) == []


# --- build


def test_a_truncated_bigwig_is_named(refused, inputs, tmp_path):
    track = inputs / "tracks/plus.bw"
    track.write_bytes(track.read_bytes()[: track.stat().st_size // 2])
    message = refused(*build_settings(inputs, tmp_path / "dataset"))
    assert f"{track}: truncated or damaged bigWig file" in message
    assert "copy or make it again" in message
    assert [path.name for path in tmp_path.iterdir()] == ["inputs"]


def test_a_bigwig_with_flipped_bytes_is_named(refused, ray_here, inputs, tmp_path):
    track = inputs / "tracks/plus.bw"
    data = bytearray(track.read_bytes())
    data_at, index_at = struct.unpack_from("<QQ", data, 16)  # summaries that nobody reads follow the index
    middle = (data_at + index_at) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    track.write_bytes(data)
    message = refused(*build_settings(inputs, tmp_path / "dataset"))
    assert str(track) in message
    assert "damaged" in message
    assert "make" in message
    assert not (tmp_path / "dataset").exists()


def test_a_fasta_that_lacks_a_contig_of_a_track_is_named(refused, inputs, tmp_path):
    fasta = inputs / "genome.fa"
    fasta.write_text(fasta.read_text().split(">sim4")[0])
    message = refused(*build_settings(inputs, tmp_path / "dataset"))
    assert f"{inputs / 'tracks/strength.bw'}: holds contig sim4 which {fasta} lacks" in message
    assert "genome.ignore_contigs" in message
    assert [path.name for path in tmp_path.iterdir()] == ["inputs"]


def test_a_missing_track_is_named(refused, inputs, tmp_path):
    (inputs / "tracks/minus.bw").unlink()
    message = refused(*build_settings(inputs, tmp_path / "dataset"))
    assert f"{inputs / 'tracks/minus.bw'}: no such input file" in message
    assert not (tmp_path / "dataset").exists()


def test_the_place_of_something_else_is_not_taken(refused, simulated, tmp_path):
    (tmp_path / "mine").mkdir()
    message = refused(*build_settings(simulated, tmp_path / "mine"))
    assert f"{tmp_path / 'mine'}: exists, and was not made by this job" in message
    assert "--set out=" in message


# --- train and evaluate


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "out: names the working directory"),
        ("{}/genome.fa/out", r"out\.unfinished: cannot be made \(Not a directory\)"),
    ],
)
def test_a_place_that_cannot_be_is_refused(refused, simulated, place, words):
    assert re.search(words, refused(*build_settings(simulated, place.format(simulated))))


def test_a_missing_dataset_is_named(refused, tmp_path):
    message = refused(*train_settings(tmp_path / "nowhere", tmp_path / "model"))
    assert f"{tmp_path / 'nowhere'}: no card.json in it" in message
    assert "run cisray build first" in message
    assert list(tmp_path.iterdir()) == []


def test_a_shift_beyond_the_margin_is_refused(refused, dataset, tmp_path):
    message = refused(*train_settings(dataset, tmp_path / "model"), "--set", "training.shift_bp=99")
    assert "shift_bp=99" in message
    assert "margin of 16 bp" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "foo"], ["split = 'foo'", "'train', 'valid' or 'test'"]),
        (["--beside", "{tmp_path}"], ["{tmp_path}: not a bundle"]),
        (["--beside", "models:/nobody@champion"], ["models:/nobody@champion: no such model"]),
        (["--split", "test", "--split", "foo"], ["split = 'foo'"]),
        (["--ceiling", "plus"], ["--ceiling 'plus': wanted TRACK=SECOND, each track once"]),
        (["--ceiling", "plus=minus", "--ceiling", "plus=spacing"], ["--ceiling 'plus=spacing': wanted TRACK=SECOND"]),
        (["--ceiling", "plus=minos"], ["minos is no file that is there, and no track; the nearest are minus"]),
        (["--biotype", "tRNA"], ["--biotype, --gene-part and --gene-covered go with --genes"]),
        (["--genes", "a.gtf", "--gene-part", "introns"], ["genes.part = 'introns'", "'exons' or 'span'"]),
        (["--genes", "a.gtf", "--gene-covered", "80"], ["genes: least_covered=80.0; wanted a share of a gene's bases"]),
        (["--genes", "{tmp_path}/a.gtf"], ["{tmp_path}/a.gtf: no such file, but a gene annotation (GTF or GFF3)"]),
    ],
)
def test_an_evaluation_of_nonsense_is_refused(refused, bundle, dataset, tmp_path, arguments, words):
    arguments, words = ([text.format(tmp_path=tmp_path) for text in part] for part in (arguments, words))
    message = refused("evaluate", bundle, dataset, "--out", tmp_path / "out", *arguments)
    assert all(word in message for word in words), message
    assert list(tmp_path.iterdir()) == []


def test_several_splits_are_measured_into_folders_of_their_own(cisray, store, bundle, dataset, tmp_path):
    genes = tmp_path / "genes.gtf"
    places = [(contig, first) for contig in ("sim3", "sim4") for first in range(101, 50_000, 900)]
    genes.write_text(
        "".join(
            f'{contig}\tme\texon\t{first}\t{first + 500}\t.\t+\t.\tgene_id "{contig}_{first}";\n'
            for contig, first in places
        )
    )
    out = tmp_path / "out"
    asked = ["--split", "valid", "--split", "test", "--genes", genes, "--gene-part", "span", "--ceiling", "plus=minus"]
    outcome = cisray("evaluate", bundle, dataset, "--out", out, *asked)
    assert outcome.code == 0, outcome.err
    assert outcome.paths() == [out / "valid", out / "test"]
    for split in ("valid", "test"):
        results = json.loads((out / split / "evaluation.json").read_text())
        assert results["split"] == split
        assert results["genes"]["part"] == "span"
        assert results["genes"]["models"]["model"]["num_compared"] == 56
        assert results["ceiling"]["seconds"] == {"plus": "minus"}
        across = results["genes"]["models"]["model"]["track_specificity"]
        assert f"basenji: r across tracks {across:.3f}, mean over" in outcome.err
    for words in ("valid split, mean of both strands", "Genes of genes.gtf, sums over their span", "r specific:"):
        assert words in outcome.err
    assert "Second measurements, and the models on the same bins" in outcome.err
    assert "Pearson correlation across genes of log2(1 + sum), per track" in outcome.err


def test_an_evaluation_without_a_dataset_is_refused(refused, bundle, tmp_path):
    message = refused("evaluate", bundle, tmp_path, "--out", tmp_path / "out")
    assert f"{tmp_path}: no card.json in it" in message


# --- score


def test_a_fasta_that_is_not_the_models_is_named(refused, bundle, inputs, tmp_path):
    fasta = inputs / "genome.fa"
    head, bases = fasta.read_text().split(">sim2\n")
    fasta.write_text(f"{head}>sim2\n{'A' if bases[0] != 'A' else 'C'}{bases[1:]}")
    message = refused(*score_settings(inputs, bundle, tmp_path / "scores"))
    assert f"{fasta} is not the genome of the model {bundle}: sim2 has the same length but other bases" in message
    assert "give the FASTA file" in message
    assert [path.name for path in tmp_path.iterdir()] == ["inputs"]


def test_a_truncated_vcf_is_named_with_its_last_good_record(refused, bundle, inputs, tmp_path):
    vcf = inputs / "variants.vcf"
    lines = vcf.read_text().splitlines(keepends=True)
    vcf.write_text("".join(lines[:200]) + lines[200][:-20])
    contig, pos, _, ref = lines[199].split("\t")[:4]
    message = refused(*score_settings(inputs, bundle, tmp_path / "scores"))
    assert f"{vcf}: line 201" in message
    assert f"the last good record is {contig}:{pos} {ref}" in message
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("cut", ["in a block", "between blocks"])
def test_a_truncated_bgzip_vcf_is_named(refused, bundle, inputs, tmp_path, cut):
    packed = inputs / "variants.vcf.gz"
    pysam.tabix_compress(str(inputs / "variants.vcf"), str(packed))
    end_block_bytes = 28
    keep = packed.stat().st_size - end_block_bytes if cut == "between blocks" else packed.stat().st_size * 2 // 3
    packed.write_bytes(packed.read_bytes()[:keep])
    message = refused(*score_settings(inputs, bundle, tmp_path / "scores"), "--set", "variants=variants.vcf.gz")
    assert f"{packed}: truncated" in message
    assert "make the file again" in message
    assert not (tmp_path / "scores").exists()


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_the_place_of_weights_is_never_run(refused, bundle, simulated, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bundle, model)
    (model / "weights.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "run")))
    message = refused(*score_settings(simulated, model, tmp_path / "scores"))
    assert f"{model / 'weights.safetensors'}: " in message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    pickle.loads((model / "weights.safetensors").read_bytes())
    assert (tmp_path / "run").exists()  # it would have done so


@pytest.mark.parametrize("name", ["genome.fa", "tracks/plus.bw", "absent.vcf"])
def test_a_file_that_is_no_vcf_is_named(refused, bundle, simulated, tmp_path, name):
    message = refused(*score_settings(simulated, bundle, tmp_path / "scores"), "--set", f"variants={name}")
    assert str(simulated / name) in message
    assert not (tmp_path / "scores").exists()


def test_a_missing_model_is_named(refused, simulated, tmp_path):
    message = refused(*score_settings(simulated, tmp_path / "model", tmp_path / "scores"))
    assert f"{tmp_path / 'model'}: not a bundle" in message
    message = refused(*score_settings(simulated, "models:/nobody/1", tmp_path / "scores"))
    assert "models:/nobody/1: no such model" in message
    assert list(tmp_path.iterdir()) == []


# --- report and simulate


def test_a_report_of_a_wrong_folder_says_what_it_takes(refused, tmp_path, bundle):
    for folder in (tmp_path, tmp_path / "nowhere"):
        message = refused("report", folder)
        assert f"{folder}: holds none of manifest.json, evaluation.json" in message
        assert "give a folder that build, evaluate, score, sweep, swap or importance made" in message
    assert f"{bundle}: a model; measure it with cisray evaluate" in refused("report", bundle)


def test_a_genome_is_not_simulated_over_something(refused, simulated, bytes_of):
    before = bytes_of(simulated)
    assert f"{simulated}: already there and not an empty folder" in refused("simulate", simulated)
    assert bytes_of(simulated) == before


# --- what is printed when all is well


def test_a_run_prints_paths_that_are_there_and_a_rerun_says_that_nothing_was_done(
    cisray, ray_here, store, simulated, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = build_settings(simulated, "runs/dataset")  # relative places become absolute in what is printed
    for words in ("dataset: ", "already built: "):
        outcome = cisray(*settings)
        assert outcome.code == 0, outcome.err
        assert outcome.out == f"{words}{tmp_path / 'runs/dataset'}\n"
        assert "strength" in outcome.err
    outcome = cisray("report", "runs/dataset")
    assert outcome.code == 0, outcome.err
    (page,) = [Path(line.removeprefix("report: ")) for line in outcome.out.splitlines() if line.startswith("report")]
    assert (tmp_path / page).stat().st_size > 10_000


def test_a_dry_run_says_how_much_work_it_is_and_writes_nothing(cisray, simulated, tmp_path):
    outcome = cisray(*build_settings(simulated, tmp_path / "dry/out"), "--dry-run")
    assert outcome.code == 0
    for word in ("train", "973", "left out: 608 test bases under no window"):
        assert word in outcome.err
    assert "shards: 4, in 2 processes" in outcome.out
    assert re.search(r"memory: [\d,]+ MB per process", outcome.out)
    assert re.search(r"time: [\d.]+ s, of which [\d.]+ s to open and lay out", outcome.out)
    assert not (tmp_path / "dry").exists()


def test_a_dataset_is_exported_for_calicos_tools(cisray, refused, dataset, tmp_path):
    outcome = cisray("export", dataset, "--out", tmp_path / "calico")
    assert outcome.code == 0
    rows = [line.split("\t") for line in (tmp_path / "calico/sequences.bed").read_text().splitlines()]
    assert len(rows) == 584 + 389 + 58 + 58
    assert {row[3] for row in rows} == {"train", "valid", "test"}
    assert (tmp_path / "calico/targets.txt").read_text().count("\n") == 5
    assert "wanted target or input" in refused("export", dataset, "--out", tmp_path / "x", "--extent", "bin")


def test_the_catalog_is_listed_with_its_costs(cisray):
    outcome = cisray("models")
    assert outcome.code == 0
    for words in ("enformer", "251,221,292", "3,011", "human 5,313, mouse 1,643", "borzoi", "190,902,667"):
        assert words in outcome.out
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("chrombpnet: ")]
    written = "\n".join(line.removeprefix("chrombpnet: ").split(", "))
    assert check_settings(tomllib.loads(written), NetworkConfig, source="the list") == CHROMBPNET
