import math
import re

import numpy as np
import pytest

from cisray.datasets.card import Track
from cisray.datasets.checks import find_suspicions
from cisray.datasets.transforms import describe, describe_inverse
from cisray.geometry import Geometry
from cisray.reports import dataset_tracks
from cisray.reports.dataset_page import write_dataset_page
from cisray.reports.dataset_tracks import describe_bases, shown_tracks

pytestmark = pytest.mark.usefixtures("unrendered")
NAMES = ("good", "constant", "empty", "lost", "masked", "flat")
STATISTICS = (
    "track",
    "split",
    "bins",
    "with data",
    "zero",
    "soft-clipped",
    "cut off",
    "mean",
    "variance",
    "min",
    "max",
)
FOUND = ("track", "file", "what was found", "what to do")


def odd_targets():
    """Return targets per split and track, each track wrong in the way of its name."""
    rng = np.random.default_rng(3)
    targets = {split: {name: rng.gamma(2, 3, 64) for name in NAMES} for split in ("train", "valid", "test")}
    for split, of_tracks in targets.items():
        of_tracks["constant"][:] = 2.5
        of_tracks["empty"][:] = np.nan
        of_tracks["masked"][: 40 if split != "test" else 32] = np.nan
        of_tracks["good"][:7] = 0
    targets["valid"]["lost"][:] = np.nan
    targets["test"]["flat"][:] = 0
    return targets


@pytest.fixture
def page_of(card_of, make_dataset, read_page):
    """Write the page of a dataset of these targets and read it."""

    def make(names, targets=None, **fields):
        card = card_of(names, targets=targets, **fields)
        return read_page(write_dataset_page(make_dataset(card, targets))), card

    return make


def tables(page, *header):
    """Return the bodies of all tables under this heading."""
    return [rows[rows.index(list(header)) + 1 :] for rows in page.tables if list(header) in rows]


def test_the_statistics_are_those_of_the_targets(page_of):
    targets = odd_targets()
    page, _ = page_of(NAMES, targets)
    rows = page.table(*STATISTICS)
    assert [row[:2] for row in rows] == [[name, split] for name in NAMES for split in targets]
    for name, split, bins, present, zero, soft, cut, *figures in rows:
        values = targets[split][name]
        known = values[~np.isnan(values)]
        assert (bins, soft, cut) == ("64", "–", "–")
        assert present == f"{len(known) / 64:.1%}"
        if not len(known):
            assert [zero, *figures] == ["–"] * 5
            continue
        assert zero == f"{(known == 0).mean():.1%}"
        expected = [known.mean(), known.var(), known.min(), known.max()]
        for figure, value in zip(figures, expected, strict=True):
            assert math.isclose(float(figure.replace(",", "")), value, rel_tol=6e-3, abs_tol=1e-9)


def test_clipped_bins_are_counted_where_there_is_a_clip(page_of):
    values = np.minimum(np.random.default_rng(0).gamma(2, 3, 64), 9)
    targets = {split: {"soft": values, "both": values} for split in ("train", "valid", "test")}
    tracks = (Track(name="soft", file="a.bw", clip_soft=5), Track(name="both", file="b.bw", clip_soft=5, clip=9))
    page, _ = page_of(("soft", "both"), targets, tracks=tracks)
    bent, cut = str((values > 5).sum()), str((values >= 9).sum())
    assert cut != "0"
    assert [row[5:7] for row in page.table(*STATISTICS)] == [[bent, "–"]] * 3 + [[bent, cut]] * 3


def test_what_is_wrong_is_listed_with_its_file_warnings_first(page_of):
    page, card = page_of(NAMES, odd_targets())
    warnings, notes = tables(page, *FOUND)
    assert [row[:3] for row in warnings] == [
        ["constant", "1.bw", "every bin with data is 2.5"],
        ["empty", "2.bw", "no data in any split"],
        ["lost", "3.bw", "no data in the valid split"],
        ["flat", "5.bw", "every bin with data of the test split is 0"],
    ]
    assert notes[0][:3] == ["masked", "4.bw", "no data in 62.5% of the train split and 62.5% of the valid split"]
    assert [row[3] for row in warnings + notes] == [one.cure for one in find_suspicions(card)]
    assert re.findall("<h2>(.*?)</h2>", page.source)[0] == "Suspicious tracks"
    assert page.source.index('callout warning"') < page.source.index('callout note"')
    assert "empty in a split: 1 track" in page.text


def test_a_sound_dataset_is_said_to_be_sound(page_of):
    page, _ = page_of(("a", "b"))
    assert "Every track has data that vary in every split." in page.text
    assert 'callout warning"' not in page.source
    assert not tables(page, *FOUND)


def test_labels_are_told_by_their_positives(page_of):
    rng = np.random.default_rng(0)
    names = [f"class{index:02}" for index in range(62)]
    targets = {
        split: {name: (rng.random(size) < 0.2).astype("f4") for name in names}
        for split, size in (("train", 400), ("valid", 150), ("test", 150))
    }
    targets["train"]["class07"][:100] = np.nan
    fields = {"kind": "labels", "target_type": "u1", "geometry": Geometry(window_bp=200, bin_bp=200)}
    page, _ = page_of(names, targets, **fields)
    rows = page.table("class", *("positives", "share", "labelled") * 3)
    assert [row[0] for row in rows] == names
    for name, *cells in rows:
        for index, split in enumerate(targets):
            known = targets[split][name][~np.isnan(targets[split][name])]
            expected = [f"{known.sum():.0f}", f"{known.mean(dtype=np.float64):.1%}", str(len(known))]
            assert cells[3 * index : 3 * index + 3] == expected
    assert not tables(page, *STATISTICS)
    assert "Histograms" not in page.text
    assert "None: targets are labels, 0 or 1." in page.text
    assert page.text.startswith("Dataset simulated Dataset simulated 62 classes over sim, 5 examples")


def test_a_column_for_labels_that_are_not_known_stands_only_where_some_are(page_of):
    rng = np.random.default_rng(0)
    targets = {split: {"a": (rng.random(64) < 0.4).astype("f4")} for split in ("train", "valid", "test")}
    page, _ = page_of(("a",), targets, kind="labels", target_type="u1")
    assert len(page.table("class", *("positives", "share") * 3)) == 1


def test_of_too_many_tracks_the_suspicious_come_first_and_the_others_are_counted(page_of, monkeypatch):
    monkeypatch.setattr(dataset_tracks, "MOST_ROWS", 3)
    monkeypatch.setattr(dataset_tracks, "MOST_PANELS", 2)
    monkeypatch.setattr(dataset_tracks, "MOST_ALIKE", 1)
    names = [f"t{index}" for index in range(8)]
    rng = np.random.default_rng(1)
    targets = {split: {name: rng.gamma(2, 3, 64) for name in names} for split in ("train", "valid", "test")}
    for of_tracks in targets.values():
        of_tracks["t4"][:] = of_tracks["t6"][:] = np.nan
    page, card = page_of(names, targets)
    assert [track.name for track in shown_tracks(card, find_suspicions(card))] == ["t4", "t6", "t0"]
    assert [row[0] for row in page.table(*STATISTICS)] == ["t4"] * 3 + ["t6"] * 3 + ["t0"] * 3
    assert [row[0] for row in page.table("track", "file")] == ["t4", "t6", "t0"]
    said = "3 of 8 tracks, suspicious ones first; the other 5 are in"
    assert f"{said} tracks.parquet, in the dataset's folder." in page.text
    assert f"{said} card.json, in the dataset's folder." in page.text
    assert "2 of 8 tracks, suspicious ones first; the other 6 are in tracks.parquet" in page.text
    assert "And 1 more (empty: 1); tracks.parquet has the figures of all." in page.text


def test_contigs_that_lack_or_were_renamed_are_told_once_for_tracks_alike(page_of):
    page, _ = page_of(
        ("a", "b", "c"),
        contig_names={"a": {"I": "sim1"}, "b": {"I": "sim1"}, "c": {}},
        absent_contigs={"a": [], "b": ["sim2", "sim3"], "c": ["sim2", "sim3"]},
    )
    assert page.table("tracks", "contigs their files lack") == [["b, c", "sim2, sim3"]]
    assert page.table("tracks", "name in their files, and in the genome") == [["a, b", "I is sim1"]]


def test_many_names_in_a_cell_are_counted(page_of):
    names = [f"t{index}" for index in range(15)]
    page, _ = page_of(names, absent_contigs={name: ["sim3"] for name in names})
    cell = ", ".join(names[:12]) + " and 3 more"
    assert page.table("tracks", "contigs their files lack") == [[cell, "sim3"]]


def test_tracks_of_one_transform_share_a_row(page_of):
    tracks = (
        Track(name="a", file="a.bw"),
        Track(name="b", file="b.bw", uncovered="zero", smooth_bp=101, statistic="sum_sqrt", scale=0.1, clip_soft=32),
        Track(name="c", file="c.bw"),
    )
    page, _ = page_of(("a", "b", "c"), tracks=tracks)
    rows = page.table("tracks", "from bases to target", "from target back to the bin's value")
    assert [row[0] for row in rows] == ["a, c", "b"]
    assert rows[1][1] == f"bases without a value count as 0; running mean over 101 bp; {describe(tracks[1])}"
    assert [row[2] for row in rows] == [describe_inverse(tracks[0]), describe_inverse(tracks[1])]
    assert describe_bases(tracks[0]).startswith("bases without a value are no data; mean")
