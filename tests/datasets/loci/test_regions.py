import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cisray.datasets.loci.regions import Masks, MaskSpec, Spans, covered, load_masks, load_spans
from cisray.errors import InputError
from cisray.geometry import Geometry

DATA = os.environ.get("CISRAY_DATA")
GENOME = {"chr1": 100, "chr2": 50}
GEOMETRY = Geometry(window_bp=12, bin_bp=2, crop_bins=1)


def bed(folder, text, name="some.bed"):
    (folder / name).write_text(text)
    return name


def spans(loaded):
    return {
        contig: list(zip(one.start.tolist(), one.end.tolist(), strict=True)) for contig, one in loaded.spans.items()
    }


def test_intervals_are_padded_within_their_contig_and_merged(tmp_path):
    name = bed(tmp_path, "2\t45\t50\n1\t60\t70\n1\t5\t10\n1\t20\t25\n1\t36\t40\n")
    loaded = load_spans(name, GENOME, pad_bp=6, data_dir=str(tmp_path))
    assert spans(loaded) == {"chr2": [(39, 50)], "chr1": [(0, 46), (54, 76)]}
    assert loaded.left_out == {}


def test_intervals_on_contigs_that_the_genome_lacks_are_counted(tmp_path):
    text = "chr1\t1\t2\nchrUn\t1\t2\nchrUn\t5\t900\nchrY\t1\t2\n"
    masks = load_masks(MaskSpec(gaps=bed(tmp_path, text)), GENOME, data_dir=str(tmp_path))
    assert masks.left_out == {"gaps": {"chrUn": 2, "chrY": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t1\t5\nchr2\t40\t51\n", r"some\.bed: line 2 \(chr2:40-51\) reaches beyond chr2, which has 50 bases"),
        ("chrX\t1\t5\n", r"none of its 1 contigs is in the genome; the first is 'chrX'.* the same assembly"),
    ],
)
def test_a_file_of_another_assembly_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_spans(bed(tmp_path, text), GENOME, data_dir=str(tmp_path))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such input file"):
        load_masks(MaskSpec(unmappable="none.bed"), GENOME, data_dir=str(tmp_path))


@st.composite
def stretches(draw):
    """Draw stretches of 60 bases that neither overlap nor touch, and the bases that they hold."""
    marked = np.array(draw(st.lists(st.booleans(), min_size=60, max_size=60)))
    edges = np.flatnonzero(np.diff(np.r_[False, marked, False].astype(int)))
    return Spans(edges[::2], edges[1::2]), marked


@given(stretches(), st.integers(-5, 65), st.integers(0, 40))
def test_the_bases_of_an_interval_that_are_covered(drawn, start, width):
    one, marked = drawn
    expected = [0 <= base < 60 and bool(marked[base]) for base in range(start, start + width)]
    assert covered(one, start, start + width).tolist() == expected


@given(stretches(), st.sampled_from([1, 2, 20]), st.lists(st.integers(-8, 50), max_size=5))
def test_unmappable_bins_are_those_with_a_tenth_of_their_bases(drawn, bin_bp, starts):
    one, marked = drawn
    geometry = Geometry(window_bp=3 * bin_bp, bin_bp=bin_bp, crop_bins=1)
    masks = Masks(unmappable={"c": one})
    padded = np.concatenate([np.zeros(100, bool), marked, np.zeros(100, bool)])
    expected = []
    for start in starts:
        held = padded[100 + start + bin_bp : 100 + start + 2 * bin_bp].sum()
        expected.append([bool(held and held >= bin_bp / 10)])
    starts = np.array(starts, np.int64)
    assert masks.unmappable_bins("c", starts, geometry).tolist() == expected
    assert masks.unmappable_fraction("c", starts, geometry).tolist() == [float(row[0]) for row in expected]


def test_the_share_of_unmappable_bins_is_of_the_predicted_part():
    masks = Masks(unmappable={"chr1": Spans(np.array([0, 16]), np.array([4, 17]))})
    starts = np.array([0, 2, 10, 50])
    # of bins 2-10, 4-12, 12-20, 52-60: 2-4 lies in the first stretch, 16-18 holds half of the second
    assert masks.unmappable_fraction("chr1", starts, GEOMETRY).tolist() == [0.25, 0, 0.25, 0]
    assert masks.unmappable_fraction("chr2", starts, GEOMETRY).tolist() == [0, 0, 0, 0]


def test_masks_travel_to_workers(tmp_path):
    name = bed(tmp_path, "chr1\t30\t40\n")
    spec = MaskSpec(gaps=name, blacklist=name, unmappable=name, max_unmappable_fraction=0.25)
    assert spec.files == (name,) * 3
    masks = pickle.loads(pickle.dumps(load_masks(spec, GENOME, data_dir=str(tmp_path))))
    assert masks.max_unmappable_fraction == 0.25
    assert masks.blacklisted("chr1", 8, 62).tolist() == [False] * 2 + [True] * 50 + [False] * 2
    assert not masks.blacklisted("chr2", 0, 50).any()
    assert masks.gaps["chr1"].start.tolist() == [30]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blacklist_pad_bp": -1}, "blacklist_pad_bp=-1; wanted 0 or more"),
        ({"blacklist_quantile": 1.5}, r"blacklist_quantile=1\.5; wanted a share"),
        ({"max_unmappable_fraction": -0.1}, r"max_unmappable_fraction=-0\.1"),
        ({"unmappable_clip_quantile": 2.0}, r"unmappable_clip_quantile=2\.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):  # pydantic's, as these are built by hand
        MaskSpec(**fields)


@pytest.mark.skipif(DATA is None, reason="CISRAY_DATA names no folder")
@pytest.mark.parametrize("genome", ["hg38", "mm10"])
def test_the_published_blacklists_mark_their_own_bases(genome):
    import gzip

    name = f"blacklists/{genome}-blacklist.v2.bed.gz"
    with gzip.open(Path(DATA) / name, "rt") as handle:
        rows = [(fields[0], int(fields[1]), int(fields[2])) for fields in map(str.split, handle)]
    lengths = {}
    for contig, _, end in rows:
        lengths[contig] = max(lengths.get(contig, 0), end)
    lengths = {contig.removeprefix("chr"): length for contig, length in lengths.items()}
    masks = load_masks(MaskSpec(blacklist=name, blacklist_pad_bp=0), lengths, data_dir=DATA)
    assert sum(int((s.end - s.start).sum()) for s in masks.blacklist.values()) == sum(e - s for _, s, e in rows)
    for contig, start, end in rows[::50]:
        marked = masks.blacklisted(contig.removeprefix("chr"), start - 1, end + 1)
        assert marked[1:-1].all()
        assert not marked[[0, -1]].any()
    assert masks.left_out == {}
