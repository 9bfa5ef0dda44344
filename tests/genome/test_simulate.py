import csv
import itertools
from collections import Counter

import numpy as np
import pydantic
import pytest

from cisray.errors import InputError
from cisray.genome.reference import Reference
from cisray.genome.sequence import encode
from cisray.genome.simulate import EFFECT_BP, SimulationSpec, simulate
from cisray.genome.simulated_signal import MOTIFS, TRACKS, expected_signal, occupancy
from cisray.genome.tracks import SignalFile, bin_values
from cisray.genome.variants import read_variants, variant_contigs

LENGTHS = {"one": 30_003, "two": 12_000}
SPEC = SimulationSpec(seed=3, contig_lengths=LENGTHS, sites_per_kb=4, num_variants=100)
FILES = {"genome.fa", "variants.vcf", "truth.tsv", "README.txt", *(f"tracks/{track}.bw" for track in TRACKS)}
GAP = ("one", 15_000, 16_496)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulate") / "made"
    simulate(folder, spec=SPEC)
    return folder


@pytest.fixture(scope="module")
def reference(made, tmp_path_factory):
    return Reference(made / "genome.fa", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def truth(made):
    with (made / "truth.tsv").open() as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def figures(row, figure):
    return np.array([float(row[f"true_{figure}_{track}"]) for track in TRACKS])


def whole(reference, contig):
    return reference.codes(contig, 0, reference.contig_lengths[contig])


def test_the_same_specification_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    simulate(tmp_path / "again", spec=SPEC)
    assert contents(tmp_path / "again") == contents(made)
    assert set(contents(made)) == FILES
    other = SimulationSpec(seed=4, contig_lengths={"one": 9000}, num_variants=0)
    simulate(tmp_path / "other", spec=other)
    assert list(read_variants(tmp_path / "other" / "variants.vcf")) == []
    assert contents(tmp_path / "other")["genome.fa"][5:2000] != contents(made)["genome.fa"][5:2000]
    assert len((made / "README.txt").read_text().splitlines()) == 2


def test_fewer_variants_leave_genome_and_tracks_alone(made, tmp_path):
    simulate(tmp_path / "fewer", spec=SimulationSpec(seed=3, contig_lengths=LENGTHS, sites_per_kb=4, num_variants=5))
    changed = {name for name, text in contents(tmp_path / "fewer").items() if text != contents(made)[name]}
    assert changed == {"variants.vcf", "truth.tsv", "README.txt"}


def test_the_genome_looks_like_yeast_and_holds_strong_sites_on_both_strands(reference):
    assert reference.contig_lengths == LENGTHS
    codes = np.concatenate([whole(reference, contig) for contig in LENGTHS])
    assert np.isin(codes, (1, 2)).mean() == pytest.approx(0.38, abs=0.02)
    assert codes.max() == 3
    for motif in MOTIFS:
        strengths = occupancy(codes, motif)
        assert ((strengths > 0.5).sum(axis=1) > 5).all()
        assert len(np.unique(strengths[strengths > 0.1])) > 5
    assert expected_signal(codes)[1].max() > 60  # pairs are planted


def test_tracks_are_observed_from_the_expected_signal(made, reference):
    expected = {contig: expected_signal(whole(reference, contig)) for contig in LENGTHS}
    for number, track in enumerate(TRACKS):
        with SignalFile(made / "tracks" / f"{track}.bw") as signal:
            assert signal.contig_lengths == LENGTHS
            for contig, length in LENGTHS.items():
                values = signal.values(contig, 0, length)
                uncovered = np.flatnonzero(np.isnan(values))
                inside = np.arange(GAP[1], GAP[2]) if (number, contig) == (0, GAP[0]) else []
                assert uncovered.tolist() == list(inside)
                full = length // 8 * 8
                steps = values[:full].reshape(-1, 8)
                assert (np.isnan(steps) | (steps == steps[:, :1])).all()
                assert (np.isnan(values) | (values == np.rint(values))).all()
                means = expected[contig][number, :full].reshape(-1, 8).mean(axis=1)
                seen = ~np.isnan(steps[:, 0])
                assert np.corrcoef(steps[seen, 0], means[seen])[0, 1] > 0.8
                assert steps[seen, 0].mean() == pytest.approx(means[seen].mean(), rel=0.1)
            binned = bin_values(values[:full], 8, "mean", "zero")
            assert 1 <= np.median(binned) <= 5
            assert binned.max() > 20


def test_variants_fit_the_genome_and_the_truth(made, reference, truth):
    variants = list(read_variants(made / "variants.vcf"))
    assert variant_contigs(made / "variants.vcf") == LENGTHS
    assert variants[-1].record_index == 99
    places = [(v.contig, v.pos) for v in variants if v.allele_index == 0]
    assert places == sorted(set(places))  # "one" comes before "two" in the genome as well
    assert {contig for contig, _ in places} == set(LENGTHS)
    for variant, row in itertools.zip_longest(variants, truth):
        assert reference.bases(variant.contig, variant.pos - 1, variant.pos - 1 + len(variant.ref)) == variant.ref
        assert variant.alt != variant.ref
        names = ("record_index", "allele_index", "contig", "pos", "ref", "alt")
        assert tuple(str(getattr(variant, name)) for name in names) == tuple(row[name] for name in names)


def test_the_truth_is_what_the_changed_genome_expects(reference, truth):
    signals = {contig: expected_signal(whole(reference, contig)) for contig in LENGTHS}
    for row in truth[::2]:
        contig, start, ref, alt = row["contig"], int(row["pos"]) - 1, row["ref"], row["alt"]
        codes = whole(reference, contig)
        changed = np.concatenate([codes[:start], encode(alt), codes[start + len(ref) :]])
        around = slice(start - EFFECT_BP // 2, start + EFFECT_BP // 2)
        sums = signals[contig][:, around].sum(axis=1), expected_signal(changed)[:, around].sum(axis=1)
        assert np.array_equal(figures(row, "delta_sum"), sums[1] - sums[0])
        assert np.array_equal(figures(row, "log2fc"), np.log2((1 + sums[1]) / (1 + sums[0])))
        if len(ref) == len(alt):  # the window holds all of the effect
            assert np.array_equal(figures(row, "delta_sum"), (expected_signal(changed) - signals[contig]).sum(axis=1))


def test_classes_are_what_they_say(reference, truth):
    shares = Counter(row["class"] for row in truth if row["allele_index"] == "0")
    assert shares == {"breaks_motif": 40, "background": 40, "other": 20}
    for row in truth:
        largest = np.abs(figures(row, "log2fc")).max()
        if row["class"] != "other":
            assert len(row["ref"]) == len(row["alt"]) == 1
        if row["class"] == "background":
            assert largest <= 0.001
        if row["class"] == "breaks_motif":
            assert largest >= 0.1
            assert figures(row, "log2fc").min() == -largest
            start = int(row["pos"]) - 1
            before = reference.codes(row["contig"], start - 10, start + 11)
            after = before.copy()
            after[10] = encode(row["alt"])[0]
            pairs = [(occupancy(before, motif), occupancy(after, motif)) for motif in MOTIFS]
            assert any(((old >= 0.5) & (new < old / 2)).any() for old, new in pairs)


def test_there_are_variants_of_every_kind(made, tmp_path):
    simulate(tmp_path / "more", spec=SimulationSpec(contig_lengths={"c": 60_000}, sites_per_kb=5, num_variants=300))
    variants = list(read_variants(tmp_path / "more" / "variants.vcf"))
    kinds = Counter(
        "snv"
        if len(v.ref) == len(v.alt) == 1
        else "mnv"
        if len(v.ref) == len(v.alt)
        else "in"
        if len(v.ref) == 1
        else "del"
        for v in variants
    )
    assert all(3 <= kinds[kind] <= 30 for kind in ("mnv", "in", "del"))
    assert kinds["snv"] > 250
    assert 3 <= sum(v.allele_index == 1 for v in variants) <= 30


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    simulate(tmp_path / "out", spec=SimulationSpec(contig_lengths={"c": 9000}, num_variants=0))  # empty is fine
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="out: already there and not an empty folder"):
        simulate(tmp_path / "out", spec=SPEC)
    assert contents(tmp_path / "out") == before


def test_more_variants_than_there_is_room_for_is_told(tmp_path):
    spec = SimulationSpec(contig_lengths={"c": 9000}, num_variants=1000)
    with pytest.raises(InputError, match=r"room for \d+ variants of the 400 wanted so far; lower num_variants"):
        simulate(tmp_path / "out", spec=spec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"contig_lengths": {"c": 5000}}, "simulated contig 'c' of 5000 bases; give .* at least 8192 bases"),
        ({"contig_lengths": {"a b": 50_000}}, "simulated contig 'a b'"),
        ({"contig_lengths": {}}, "contig_lengths is empty"),
        ({"sites_per_kb": 11}, "less than or equal to 10"),
        ({"num_variants": -1}, "greater than or equal to 0"),
        ({"number": 3}, "number"),
    ],
)
def test_a_bad_specification_is_refused(settings, match):
    with pytest.raises((InputError, pydantic.ValidationError), match=match):
        SimulationSpec(**settings)


def test_the_default_is_two_million_bases():
    assert sum(SimulationSpec().contig_lengths.values()) == 2_000_000
    assert list(SimulationSpec().contig_lengths) == ["sim1", "sim2", "sim3", "sim4"]
