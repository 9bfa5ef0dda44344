import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.errors import InputError
from cisray.scoring import calibration
from cisray.scoring.calibration import (
    Settings,
    calibration_names,
    make_calibration,
    prioritize,
    read_calibration,
    write_calibration,
)
from cisray.scoring.effects import SCORES
from cisray.scoring.knots import KNOTS, TAIL, KnotCollector, collect

FORMULAS = {name: SCORES[name].formula for name in ("log2fc", "l2")}
MADE = {
    "model_digest": "ab12",
    "formulas": FORMULAS,
    "masks": {"log2fc": "center(501)"},
    "window_policy": "centered",
    "indel_align": "none",
    "strands": "both",
}


def calibrate(values, score="log2fc", buffer_rows=None, tracks=None):
    """Make a calibration of one score's background [n, T]."""
    collector = KnotCollector(values.shape[1], buffer_rows=buffer_rows)
    for start in range(0, len(values), 97):
        collector.add(values[start : start + 97])
    return make_calibration(
        {score: collector},
        settings=Settings(**MADE | {"formulas": {score: SCORES[score].formula}}),
        tracks=tracks or [f"t{track}" for track in range(values.shape[1])],
        background="common.vcf.gz",
        background_digest="ef56",
    )


def share_below(background, values):
    """Count per track, one value at a time."""
    return np.array(
        [
            [((b < x).sum() + (b == x).sum() / 2) / len(b) for b, x in zip(background.T, row, strict=True)]
            for row in values
        ]
    )


def test_a_score_is_ranked_among_those_of_the_background():
    background = np.array([[1, 2, 3, 4]], np.float32).T
    asked = np.array([[0.5], [1], [1.5], [2], [4], [9]], np.float32)
    shares = [0, 1 / 8, 1 / 4, 3 / 8, 7 / 8, 1]
    assert calibrate(background, "l2").quantiles("l2", asked).ravel().tolist() == shares
    assert calibrate(background).quantiles("log2fc", asked).ravel().tolist() == [2 * share - 1 for share in shares]


def test_a_signed_score_of_nothing_is_zero_where_most_of_the_background_is_nothing():
    background = np.array([[-2, -1, 0, 0, 0, 0, 1, 2]], np.float32).T
    asked = np.array([[0], [-0.0], [1], [-1]], np.float32)
    assert calibrate(background).quantiles("log2fc", asked).ravel().tolist() == [0, 0, 0.625, -0.625]


small = st.integers(-4, 4).map(lambda number: number / 2)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_tracks=st.integers(1, 3))
def test_a_small_background_is_ranked_exactly(data, num_tracks):
    rows = st.lists(st.lists(small, min_size=num_tracks, max_size=num_tracks), min_size=1, max_size=40)
    background, asked = (np.array(data.draw(rows), np.float32) for _ in range(2))
    found = calibrate(background, "l2").quantiles("l2", asked)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, share_below(background, asked), atol=1e-7)


@pytest.mark.parametrize("buffer_rows", [None, 512])
def test_tails_of_a_large_background_are_exact_and_its_middle_within_what_is_said(buffer_rows):
    generator = np.random.default_rng(5)
    background = generator.standard_t(2, (20_000, 3)).astype(np.float32)
    background[::4, 1] = 0  # a mass at one value
    background[:, 2] = np.abs(background[:, 2])
    made = calibrate(background, "l2", buffer_rows=buffer_rows)
    ordered = np.sort(background, axis=0)
    extremes = np.concatenate([ordered[: TAIL - 1], ordered[-TAIL + 1 :], ordered[:1] - 1, ordered[-1:] + 1])
    between = (ordered[: TAIL - 1] + ordered[1:TAIL]) / 2
    # in float32, not in the ranks
    for asked in (extremes, between):
        np.testing.assert_allclose(made.quantiles("l2", asked), share_below(background, asked), atol=1e-7)
    asked = generator.standard_t(2, (400, 3)).astype(np.float32)
    error = np.abs(made.quantiles("l2", asked) - share_below(background, asked)).max()
    step = 1 / (KNOTS - 2 * TAIL)
    assert error <= made.card.rank_error + step
    if buffer_rows is None:
        assert made.card.rank_error == 0
    else:
        assert 0 < made.card.rank_error < 0.02
    assert made.card.num_variants == 20_000
    assert np.abs(made.quantiles("l2", np.zeros((1, 3), np.float32))[0, 1] - 0.5) < 0.02


def test_ranks_rise_with_scores():
    generator = np.random.default_rng(6)
    background = generator.normal(size=(5000, 1)).round(1).astype(np.float32)
    asked = np.sort(generator.normal(size=(3000, 1)).astype(np.float32), axis=0)
    found = calibrate(background, buffer_rows=256).quantiles("log2fc", asked).ravel()
    assert (np.diff(found) >= 0).all()
    assert found.min() >= -1
    assert found.max() <= 1


def test_blocks_of_several_scores_are_collected_by_name():
    blocks = [{"log2fc": np.full((2, 3), number, np.float32), "l2": np.ones((2, 3), np.float32)} for number in range(4)]
    found = collect(blocks, num_tracks=3)
    assert list(found) == ["log2fc", "l2"]
    made = make_calibration(
        found, settings=Settings(**MADE), tracks=["a", "b", "c"], background="x.vcf", background_digest="12"
    )
    assert made.card.num_variants == 8
    assert made.card.signed == {"log2fc": True, "l2": False}
    assert made.quantiles("log2fc", np.full((1, 3), 2.0, np.float32)).tolist() == [[0.25] * 3]


def test_some_tracks_are_ranked_by_name():
    background = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    made = calibrate(background, tracks=["a", "b", "c", "d"])
    asked = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32)
    assert (
        made.quantiles("log2fc", asked[:, [3, 1]], tracks=["d", "b"]) == made.quantiles("log2fc", asked)[:, [3, 1]]
    ).all()


def test_many_tracks_are_ranked_in_parts(monkeypatch):
    background, asked = np.random.default_rng(4).normal(size=(2, 60, 30)).astype(np.float32)
    made = calibrate(background)
    whole = made.quantiles("log2fc", asked)
    monkeypatch.setattr(calibration, "VALUES_AT_ONCE", 150)
    assert (made.quantiles("log2fc", asked) == whole).all()


def test_a_calibration_lies_in_a_bundles_folder(tmp_path):
    background = np.random.default_rng(2).normal(size=(2000, 2)).astype(np.float32)
    made = calibrate(background)
    path = write_calibration(tmp_path, "common", made)
    assert path == tmp_path / "calibration" / "common.json"
    assert calibration_names(tmp_path) == ["common"]
    read = read_calibration(tmp_path, "common")
    assert (read.ranks == made.ranks).all()
    assert (read.knots["log2fc"] == made.knots["log2fc"]).all()
    assert read.card.settings == made.card.settings
    asked = np.random.default_rng(3).normal(size=(9, 2)).astype(np.float32)
    assert (read.quantiles("log2fc", asked) == made.quantiles("log2fc", asked)).all()
    before = [file.read_bytes() for file in sorted(path.parent.iterdir())]
    write_calibration(tmp_path, "common", made)
    assert [file.read_bytes() for file in sorted(path.parent.iterdir())] == before


def test_scores_made_alike_may_be_ranked():
    made = calibrate(np.zeros((3, 1), np.float32))
    made.check(made.card.settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_digest": "cd34"},
            "calibration with common.vcf.gz: made with model_digest = ab12, and these scores with cd",
        ),
        ({"masks": {}}, r"made with mask of log2fc = center\(501\), and these scores with crop; score alike, or cal"),
        ({"window_policy": "grid=2048"}, "made with window_policy = centered"),
        ({"strands": "forward"}, "made with strands = both"),
        ({"shifts": (0, 1)}, r"made with shifts = \(0,\), and these scores with \(0, 1\)"),
        ({"indel_align": "stitch"}, "made with indel_align = none"),
        ({"formulas": FORMULAS}, "does not know the score l2, only log2fc; calibrate it too"),
        ({"formulas": {"log2fc": "a / r"}}, r"made with formula of log2fc = log2\(1 .*, and these scores with a / r"),
    ],
)
def test_scores_made_otherwise_may_not(change, message):
    made = calibrate(np.zeros((3, 1), np.float32))
    with pytest.raises(InputError, match=message):
        made.check(Settings(**MADE | {"formulas": {"log2fc": FORMULAS["log2fc"]}} | change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("l2", np.zeros((1, 2), np.float32)), "no calibration of l2; there is one of log2fc"),
        (("log2fc", np.zeros((1, 3), np.float32)), r"log2fc is \(1, 3\); wanted finite numbers \[variants, 2\]"),
        (("log2fc", np.full((1, 2), np.nan, np.float32)), r"log2fc is \(1, 2\); wanted finite numbers"),
    ],
)
def test_what_cannot_be_ranked_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        calibrate(np.zeros((3, 2), np.float32)).quantiles(*arguments)


def test_an_unknown_track_is_told():
    with pytest.raises(
        InputError, match="no calibration of track 'heart', only of 2 others; calibrate with all tracks"
    ):
        calibrate(np.zeros((3, 2), np.float32)).quantiles("log2fc", np.zeros((1, 1), np.float32), tracks=["heart"])


def test_scores_of_different_variants_make_no_calibration():
    collectors = collect([{"log2fc": np.zeros((2, 1), np.float32)}, {"l2": np.zeros((1, 1), np.float32)}], num_tracks=1)
    settings_of = Settings(**MADE)
    with pytest.raises(InputError, match=r"collected log2fc, l2 of \[1, 2\] variants; wanted log2fc, l2, each of the"):
        make_calibration(collectors, settings=settings_of, tracks=["a"], background="x", background_digest="y")
    with pytest.raises(InputError, match=r"collected no score of \[\] variants"):
        make_calibration({}, settings=settings_of, tracks=["a"], background="x", background_digest="y")


def edit_card(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_files_that_are_no_calibration_are_told(tmp_path):
    with pytest.raises(InputError, match=r"common.json: no such calibration \(there: none\); run cisray calibrate"):
        read_calibration(tmp_path, "common")
    path = write_calibration(tmp_path, "other", calibrate(np.zeros((3, 1), np.float32)))
    with pytest.raises(InputError, match=r"no such calibration \(there: other\)"):
        read_calibration(tmp_path, "common")
    edit_card(path, schema_version=9)
    with pytest.raises(InputError, match="calibration of schema version 9; this cisray reads 1; calibrate anew"):
        read_calibration(tmp_path, "other")
    edit_card(path, schema_version=1, colour="red")
    with pytest.raises(InputError, match=r"other.json: unknown key colour"):
        read_calibration(tmp_path, "other")


def test_knots_of_another_calibration_are_told(tmp_path):
    path = write_calibration(tmp_path, "common", calibrate(np.zeros((3, 1), np.float32)))
    knots_path = path.with_suffix(".safetensors")
    knots_path.write_bytes(b"x" * 20)
    with pytest.raises(InputError, match=r"common.safetensors: missing, or not the file that common.json was written"):
        read_calibration(tmp_path, "common")
    edit_card(path, sha256=calibration.file_digest(knots_path))
    with pytest.raises(InputError, match=r"not a readable safetensors file .*; calibrate anew"):
        read_calibration(tmp_path, "common")
    knots_path.unlink()
    with pytest.raises(InputError, match=r"common.safetensors: missing"):
        read_calibration(tmp_path, "common")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "two words"])
def test_a_name_that_is_no_file_is_told(tmp_path, name):
    with pytest.raises(InputError, match=r"a name becomes a file; wanted letters, digits"):
        read_calibration(tmp_path, name)


def test_the_score_of_priority_is_a_product_with_a_floor():
    found = prioritize(
        np.array([[2.0, -2.0]], np.float32),
        np.array([[0.5, 0.5]], np.float32),
        np.array([[0.0, 0.75]], np.float32),
        num_variants=100,
    )
    np.testing.assert_allclose(found, [[0.01, -0.75]], rtol=1e-6)
