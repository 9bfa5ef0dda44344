import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_model_file import read_gkm_model, write_gkm_model
from cisray.baselines.gkm_svm import GkmModel, SvmSpec, cross_validate
from cisray.genome.sequence import decode, encode

DATA = os.environ.get("CISRAY_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
NFE2 = "tf_binding/nfe2_gm12878/wgEncodeSydhTfbsGm12878Nfe2hStdAlnRep0"

TEXT = """svm_type c_svc
kernel_type gkm_esttrunc
L 6
k 4
d 2
nr_class 2
total_sv 3
rho -0.125
label 1 -1
nr_sv 1 2
SV
0.75 ACGTACGTA
-0.5 TTTTTTT
-0.25 GATTACAGATTACA
"""


def write(tmp_path, text=TEXT):
    path = tmp_path / "some.model.txt"
    path.write_text(text)
    return path


def test_a_model_is_read_plain_and_packed(tmp_path):
    packed = tmp_path / "some.model.txt.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    for path in (write(tmp_path), packed):
        model = read_gkm_model(path)
        assert model.spec == GkmSpec(l=6, k=4, d=2)
        assert model.rho == -0.125
        assert model.coefficients.tolist() == [0.75, -0.5, -0.25]
        assert [decode(codes) for codes in model.sequences] == ["ACGTACGTA", "TTTTTTT", "GATTACAGATTACA"]


def test_a_model_is_written_as_it_was_read_the_positive_first(tmp_path):
    model = read_gkm_model(write(tmp_path))
    mixed = GkmModel(model.spec, model.sequences[::-1], model.coefficients[::-1], model.rho)
    write_gkm_model(mixed, tmp_path / "again.txt")
    lines = TEXT.splitlines()
    assert (tmp_path / "again.txt").read_text().splitlines() == [*lines[:-2], lines[-1], lines[-2]]
    coefficients = np.array([1 / 3, -1 / 7, -1e-17])
    write_gkm_model(GkmModel(model.spec, model.sequences, coefficients, np.pi), tmp_path / "digits.txt")
    again = read_gkm_model(tmp_path / "digits.txt")
    assert again.coefficients.tolist() == coefficients.tolist()
    assert again.rho == np.pi


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SV\n", "", "no line SV among the first 40; wanted a model file that gkmtrain wrote"),
        ("rho -0.125\n", "", "the header lacks rho; wanted a model file that gkmtrain wrote"),
        ("gkm_esttrunc", "gkm_rbf", "kernel_type gkm_rbf; wanted gkm_esttrunc, train with -t 2"),
        ("c_svc", "one_class", "svm_type one_class; wanted a machine of the two classes 1 and -1"),
        ("label 1 -1", "label -1 1", "label -1 1; wanted a machine of the two classes"),
        ("nr_class 2", "nr_class 3", "nr_class 3; wanted a machine of the two classes"),
        ("L 6", "L six", "L six; wanted a whole number"),
        ("k 4", "k 7", "l=6, k=7; wanted l from 3 to 12 and k from 1 to l"),
        ("total_sv 3", "total_sv 4", "3 support vectors of 4; it was cut, copy it again"),
        ("-0.5 T", "-0.5T", "line 13: '-0.5TTTTTTT'; wanted a coefficient and a sequence"),
        ("-0.5 T", "nan T", "line 13: 'nan'; wanted a number, and LS-GKM writes nan for a damaged model"),
        ("rho -0.125", "rho x", "rho: 'x'; wanted a number"),
        ("TTTTTTT", "TTTNTTT", "line 13: a support vector with letters beside ACGT, which LS-GKM counts as A"),
        ("rho", "gamma 2\nrho", "line 8: 'gamma 2' is not known here; if it changes no score, name 'gamma' in ignore"),
    ],
)
def test_what_is_no_such_model_is_refused(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=f"some.model.txt: .*{message}|{message}"):
        read_gkm_model(write(tmp_path, TEXT.replace(old, new, 1)))


def test_a_line_that_is_named_may_stand_in_the_header(tmp_path):
    path = write(tmp_path, TEXT.replace("rho", "norc 0\nrho"))
    assert read_gkm_model(path, ignore=["norc"]).rho == -0.125


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file, but a model file of LS-GKM was expected here"):
        read_gkm_model(tmp_path / "none.txt")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(TEXT.encode())[:-12])
    with pytest.raises(ValueError, match=r"cut.gz: not a readable model file of LS-GKM .*; copy it again"):
        read_gkm_model(cut)
    cut.write_bytes("SV é".encode())
    with pytest.raises(ValueError, match=r"cut.gz: not a readable model file of LS-GKM .*ascii"):
        read_gkm_model(cut)


def test_what_ls_gkm_would_read_otherwise_is_not_written(tmp_path):
    model = read_gkm_model(write(tmp_path))
    with pytest.raises(ValueError, match="kernel gkm_full; only gkm on both strands can be written for LS-GKM"):
        write_gkm_model(model._replace(spec=GkmSpec(l=6, k=4, d=2, kernel="gkm_full")), tmp_path / "new.txt")
    with pytest.raises(ValueError, match="kernel gkm; only gkm on both strands"):
        write_gkm_model(model._replace(spec=GkmSpec(l=6, k=4, d=2, reverse_complement=False)), tmp_path / "new.txt")
    with pytest.raises(ValueError, match="a support vector holds N, which LS-GKM would count as A"):
        write_gkm_model(model._replace(sequences=[encode("ACGTACGTN")] * 3), tmp_path / "new.txt")
    assert not (tmp_path / "new.txt").exists()


def read_fasta(path):
    records = path.read_text().split(">")[1:]
    return {record.split()[0]: encode("".join(record.split()[1:])) for record in records}


def nfe2(suffix):
    return Path(DATA or "") / (NFE2 + suffix)


@needs_data
def test_the_shipped_model_scores_its_support_vectors_as_its_optimum_says():
    model = read_gkm_model(nfe2(".model.txt"))
    assert (len(model.sequences), model.spec) == (958, GkmSpec(l=10, k=6, d=3))
    scores = model.table().score(model.sequences)
    labels = np.sign(model.coefficients)
    free = np.abs(model.coefficients) < 1
    assert free.sum() == 842
    # LS-GKM stops when the conditions hold to 0.001, and takes for rho the mean of what free support vectors say
    assert np.abs(scores - labels)[free].max() < 1e-3
    assert np.mean(scores - labels, where=free) == pytest.approx(0, abs=1e-6)


@needs_data
def test_cross_validation_agrees_with_the_shipped_predictions():
    rows = [line.split("\t") for line in nfe2(".cvpred.txt").read_text().splitlines()]
    positive, negative = read_fasta(nfe2(".tr.fa")), read_fasta(nfe2(".neg.tr.fa"))
    sequences = [(positive if label == "1" else negative)[name] for name, _, label, _ in rows]
    labels, folds = (np.array([int(row[column]) for row in rows]) for column in (2, 3))
    theirs = np.array([float(row[1]) for row in rows])
    scores = cross_validate(sequences, labels, folds, spec=GkmSpec(l=10, k=6, d=3), svm=SvmSpec())
    assert roc_auc_score(labels, scores) == pytest.approx(roc_auc_score(labels, theirs), abs=1e-4)
    assert roc_auc_score(labels, scores) == pytest.approx(0.985, abs=0.003)
    assert np.corrcoef(scores, theirs)[0, 1] > 0.9999999
    assert np.abs(scores - theirs).max() < 1e-3  # two optima, each found to 0.001
