import numpy as np
import pytest

from cisray.datasets.card import Track
from cisray.datasets.replicates import Replicates
from cisray.errors import InputError
from cisray.genome.tracks import write_signal

LENGTHS = {"chr1": 5000, "chr2": 300}  # of the card; windows of 12 bp, 4 bins of 2 bp from 2 bp on


@pytest.fixture
def second(tmp_path):
    """A bigWig file whose base i of chr1 has the value i, and base 0 to 99 of chr2 too; chr1 is called 1 there."""
    signal = {"1": (np.arange(5000), np.arange(5000.0)), "2": (np.arange(100), np.arange(100.0))}
    write_signal(tmp_path / "second.bw", {"1": 5000, "2": 300}, signal, step_bp=1)
    return str(tmp_path / "second.bw")


def test_another_track_is_taken_as_it_was_measured(make_card):
    measured = np.random.default_rng(0).normal(size=(2, 4, 3))
    replicates = Replicates({"both": "fwd", "fwd": "rev"}, make_card())
    assert replicates.tracks == ["both", "fwd"]
    assert replicates.paths == []
    found = replicates.read(["chr1", "chr1"], np.array([0, 8]), measured)
    np.testing.assert_array_equal(found, measured[:, :, [0, 1]].astype("f4"))


def test_a_file_is_binned_as_the_track_is_and_comes_on_the_natural_scale(make_card, second):
    """Track fwd has a scale and a soft clip, which the natural scale undoes; the mean of bases i, i + 1 is i + .5."""
    replicates = Replicates({"fwd": second, "both": "rev"}, make_card())
    contigs, starts = ["chr2", "chr1", "chr1", "chr2", "chr1"], np.array([0, 4000, 0, 92, 6])
    found = replicates.read(contigs, starts, np.zeros((5, 4, 3)))
    bins = starts[:, None] + 2 + 2 * np.arange(4) + 0.5
    bins[3, 3:] = np.nan  # of 100 and 101 nothing is known
    np.testing.assert_allclose(found[:, :, 0], bins, rtol=1e-6)
    assert not found[:, :, 1].any()
    assert [path.name for path in replicates.paths] == ["second.bw"]


def test_a_files_settings_are_those_of_the_track(make_card, second):
    tracks = (
        Track(name="sum", file="s.bw", statistic="sum", uncovered="zero"),
        Track(name="top", file="t.bw", statistic="max"),
    )
    found = Replicates({"sum": second, "top": second}, make_card(tracks=tracks)).read(
        ["chr2"], np.array([94]), np.zeros((1, 4, 2))
    )
    assert found[0, :, 0].tolist() == [193, 197, 0, 0]
    np.testing.assert_array_equal(found[0, :, 1], [97, 99, np.nan, np.nan])


@pytest.mark.parametrize(
    ("seconds", "match"),
    [
        ({"forward": "rev"}, r"ceiling of track 'forward': no such track; .*fwd"),
        ({"fwd": "fwd"}, r"ceiling of track fwd: it is its own second measurement; give another one"),
        (
            {"fwd": "rew"},
            r"ceiling of track fwd: rew is no file that is there, and no track; the nearest are rev",
        ),
        ({"fwd": "{}"}, r"ceiling of track fwd: /.* is no file that is there, and no track; there are fwd, rev, both"),
    ],
)
def test_a_second_that_is_none_is_refused(make_card, tmp_path, seconds, match):
    with pytest.raises(InputError, match=match):
        Replicates({track: name.format(tmp_path) for track, name in seconds.items()}, make_card())


def test_a_file_of_another_genome_is_refused(make_card, tmp_path):
    path = tmp_path / "other.bw"
    write_signal(path, {"chr1": 4000}, {"chr1": (np.arange(3), np.ones(3))}, step_bp=1)
    with pytest.raises(InputError, match="contig 'chr1' has 4000 bases there and 5000 in the genome; another assembly"):
        Replicates({"fwd": str(path)}, make_card())
    write_signal(path, {"x": 4000}, {"x": (np.arange(3), np.ones(3))}, step_bp=1)
    with pytest.raises(
        InputError, match=r"other\.bw: has no contig in common with toy1; give a file of the same assem"
    ):
        Replicates({"fwd": str(path)}, make_card())


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"genome": None}, r"lie on no genome, so that ceiling of track fwd from a file is not possible"),
        (
            {"kind": "labels"},
            r"ceiling of track fwd: .* is not a track of the dataset, whose targets are labels; name one",
        ),
        (
            {"job": {"masks": {"blacklist": "b.bed"}}},
            r"the dataset's masks lowered values that .*second\.bw still holds",
        ),
        ({"job": {"masks": {"unmappable_clip_quantile": 0.5}}}, r"build the dataset with that file as a track too"),
    ],
)
def test_a_file_is_refused_where_it_cannot_be_measured_alike(make_card, second, fields, match):
    with pytest.raises(InputError, match=match):
        Replicates({"fwd": second}, make_card(**fields))
    assert Replicates({"fwd": "rev"}, make_card(**fields)).tracks == ["fwd"]
