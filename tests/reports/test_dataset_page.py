import math
import re

import numpy as np
import pytest

from cisray.datasets.folds import FoldSpec
from cisray.datasets.schema import Track
from cisray.datasets.transforms import to_natural, to_target
from cisray.errors import InputError
from cisray.geometry import Geometry
from cisray.reports.dataset_page import (
    describe_geometry,
    describe_inverse,
    describe_transform,
    find_suspicious,
    write_dataset_page,
)

pytestmark = pytest.mark.usefixtures("unrendered")
EVIL = "<img src=x onerror=alert(1)>$_{"
NAMES = ("good", "constant", "empty", "lost", "masked", "flat")


def odd_targets():
    """Return targets per split and track, each track wrong in the way of its name."""
    rng = np.random.default_rng(3)
    targets = {split: {name: rng.gamma(2, 3, 64) for name in NAMES} for split in ("train", "valid", "test")}
    for split, of_tracks in targets.items():
        of_tracks["constant"][:] = 2.5
        of_tracks["empty"][:] = np.nan
        of_tracks["masked"][: 40 if split != "test" else 32] = np.nan
    targets["valid"]["lost"][:] = np.nan
    targets["test"]["flat"][:] = 0
    return targets


def test_the_statistics_are_those_of_the_targets(card_of, make_dataset, read_page):
    targets = odd_targets()
    page = read_page(write_dataset_page(make_dataset(card_of(NAMES, targets=targets))))
    rows = page.table("track", "split", "bins", "with data", "mean", "variance", "min", "max")
    assert [row[:2] for row in rows] == [[name, split] for name in NAMES for split in targets]
    for name, split, bins, present, *figures in rows:
        values = targets[split][name]
        known = values[~np.isnan(values)]
        assert bins == "64"
        assert present == f"{len(known) / 64:.1%}"
        if not len(known):
            assert figures == ["–"] * 4
            continue
        expected = [known.mean(), known.var(), known.min(), known.max()]
        for figure, value in zip(figures, expected, strict=True):
            assert math.isclose(float(figure.replace(",", "")), value, rel_tol=6e-3, abs_tol=1e-9)


def test_suspicious_tracks_are_named_with_what_is_wrong(card_of):
    warnings, notes = find_suspicious(card_of(NAMES, targets=odd_targets()))
    assert warnings == [
        "constant is constant: every bin with data is 2.500.",
        "empty is empty: it has no data in any split.",
        "lost has no data in the valid split.",
        "flat is constant in the test split: every bin with data is 0.",
    ]
    assert notes == ["masked has no data in 62.5% of the train split's bins and 62.5% of the valid split's bins."]


def test_a_far_outlier_is_a_note(card_of):
    values = np.random.default_rng(0).normal(10, 1, 10_000)
    targets = {split: {"a": values} for split in ("train", "valid", "test")}
    assert find_suspicious(card_of(("a",), targets=targets)) == ([], [])
    values[17] = 2000
    warnings, notes = find_suspicious(card_of(("a",), targets=targets))
    assert not warnings
    assert re.match(r"a reaches 2,000, 1\d\d standard deviations above its mean", notes[0])


def test_what_is_wrong_stands_first_and_warnings_before_notes(card_of, make_dataset, read_page):
    page = read_page(write_dataset_page(make_dataset(card_of(NAMES, targets=odd_targets()))))
    headings = re.findall("<h2>(.*?)</h2>", page.source)
    assert headings[0] == "Suspicious tracks"
    order = [page.text.index(words) for words in ("empty is empty", "masked has no data", "a model reads")]
    assert order == sorted(order)
    assert page.source.index('callout warning"') < page.source.index('callout note"')


def test_a_sound_dataset_is_said_to_be_sound(card_of, make_dataset, read_page):
    page = read_page(write_dataset_page(make_dataset(card_of())))
    assert "Every track has data that vary in every split." in page.text
    assert 'callout warning"' not in page.source


def test_splits_regions_and_losses_are_told(card_of, make_dataset, read_page):
    card = card_of()
    page = read_page(write_dataset_page(make_dataset(card)))
    assert page.table("split", "examples", "bases", "regions") == [
        ["train", "3", "120,000", "2"],
        ["valid", "1", "20,000", "1"],
        ["test", "1", "30,000", "1"],
    ]
    assert page.table("reason", "count") == [
        ["windows with too many N", "4"],
        ["test bases under no window", "1,328"],
    ]
    assert "valid is sim2:0-20000; test is sim3; the rest is train." in page.text
    assert card.digest in page.text
    assert page.source.count("<img") == 1


def test_folds_that_were_dealt_are_described(card_of, make_dataset, read_page):
    folds = FoldSpec(num_folds=5, test_fold=3, break_bp=50_000, exclude=("chrM",))
    page = read_page(write_dataset_page(make_dataset(card_of(folds=folds))))
    assert "50,000 bp were dealt out to 5 folds; fold 1 is valid, fold 3 is test" in page.text
    assert "chrM: in no split" in page.text


def test_contigs_that_lack_or_were_renamed_are_told_once_for_tracks_alike(card_of, make_dataset, read_page):
    card = card_of(
        ("a", "b", "c"),
        contig_names={"a": {"I": "sim1"}, "b": {"I": "sim1"}, "c": {}},
        absent_contigs={"a": [], "b": ["sim2", "sim3"], "c": ["sim2", "sim3"]},
    )
    page = read_page(write_dataset_page(make_dataset(card)))
    assert page.table("tracks", "contigs their files lack") == [["b, c", "sim2, sim3"]]
    assert page.table("tracks", "name in their files, and in the genome") == [["a, b", "I is sim1"]]


def test_geometry_in_words_holds_every_number():
    said = dict(describe_geometry(Geometry(window_bp=131_072, bin_bp=128, crop_bins=64, margin_bp=16)))
    assert "131,072 bp" in said["window"]
    assert "128 bp" in said["bin"]
    assert "64 bins (8,192 bp)" in said["crop"]
    assert "16 bp" in said["margin"]
    assert "131,104 bp" in said["margin"]
    assert said["bins per example"] == "896, which cover 114,688 bp"
    plain = dict(describe_geometry(Geometry(window_bp=256, bin_bp=16)))
    assert plain["crop"].startswith("none")
    assert plain["margin"].startswith("none")


@pytest.mark.parametrize(("scale", "clip_soft"), [(1.0, None), (0.1, 10.0), (2.0, 32.0), (0.5, None)])
def test_transforms_in_words_compute_what_the_code_computes(scale, clip_soft):
    track = Track(name="t", file="t.bw", scale=scale, clip_soft=clip_soft)
    there, back = describe_transform(track), describe_inverse(track)
    natural = np.array([0.0, 3.0, 50.0, 900.0])
    clip = np.array([np.inf if clip_soft is None else clip_soft])
    target = to_target(natural, np.array([scale]), clip)
    by_words = natural * float(found[1]) if (found := re.search(r"times ([\d.]+)", there)) else natural
    if found := re.search(r"exceeds ([\d.]+) becomes ([\d.]+) \+ sqrt\(x - ([\d.]+)\)", there):
        c, plus, less = map(float, found.groups())
        by_words = np.where(by_words > c, plus + np.sqrt(np.maximum(by_words - less, 0)), by_words)
    assert np.allclose(by_words, target)
    returned = target
    if found := re.search(r"exceeds ([\d.]+) becomes \(y - ([\d.]+)\)² \+ ([\d.]+)", back):
        c, less, plus = map(float, found.groups())
        returned = np.where(target > c, (target - less) ** 2 + plus, target)
    if found := re.search(r"divided by ([\d.]+)", back):
        returned = returned / float(found[1])
    assert np.allclose(returned, to_natural(target, np.array([scale]), clip))
    assert np.allclose(returned, natural)


def test_transforms_tell_how_bases_become_a_bin():
    track = Track(name="t", file="t.bw", statistic="sum", uncovered="zero", smooth_bp=101)
    words = describe_transform(track)
    assert words == "bases without a value count as 0; running mean over 101 bp; sum over the bases of a bin"
    assert describe_inverse(track).startswith("none")


def test_names_from_outside_are_escaped(card_of, make_dataset, read_page):
    page = read_page(write_dataset_page(make_dataset(card_of((EVIL, "b"), name=EVIL))))
    assert EVIL in page.text
    assert EVIL not in page.source
    assert "</pre><b>" not in page.source


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a finished dataset"):
        write_dataset_page(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_lies_in_the_dataset_and_is_the_same_each_time(card_of, make_dataset, rendered):
    folder = make_dataset(card_of())
    path = write_dataset_page(folder)
    assert path == folder / "report.html"
    before = path.read_bytes()
    assert write_dataset_page(folder).read_bytes() == before
    assert sorted(one.name for one in folder.iterdir()) == ["card.json", "report.html"]
