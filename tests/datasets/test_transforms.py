import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.datasets.card import Track, track_transforms
from cisray.datasets.transforms import (
    POOLING,
    PlacedTransforms,
    SumStat,
    Transforms,
    describe,
    describe_inverse,
    to_natural,
    to_target,
)
from cisray.errors import InputError

NAN, INF = float("nan"), float("inf")
BENT = {"sum_sqrt", "mean_sqrt", "sum_exp75"}


def a_track(**settings) -> Track:
    return Track(name="t", file="t.bw", **settings)


def target_of(x: float, **settings) -> float:
    return to_target(np.array([x]), track_transforms([a_track(**settings)])).item()


def natural_of(y: float, **settings) -> float:
    return to_natural(np.array([y]), track_transforms([a_track(**settings)])).item()


# value of a bin, settings, target: each can be checked by eye
KNOWN = [
    *[(7.0, {"statistic": name}, 7.0) for name in ("sum", "mean", "max", "median")],
    (4.0, {"statistic": "mean", "scale": 0.5}, 2.0),
    (8.0, {"statistic": "sum_sqrt"}, 2.0),
    (24.0, {"statistic": "mean_sqrt"}, 4.0),
    (80.0, {"statistic": "sum_exp75"}, 26.0),  # 81^0.75 = 27
    (0.0625, {"statistic": "peak"}, 0.5),
    (9.0, {"statistic": "peak"}, 1.0),
    (16.0, {"statistic": "sum_sqrt", "order": "old"}, 8.0),
    (81.0, {"statistic": "mean_sqrt", "order": "old"}, 27.0),
    # 20 bases' worth at 0.4 is 8
    (20.0, {"statistic": "sum_sqrt", "scale": 0.4}, 2.0),
    # the scale comes last: 16^0.75 = 8, then a quarter of it
    (16.0, {"statistic": "sum_sqrt", "order": "old", "scale": 0.25}, 2.0),
    (0.0625, {"statistic": "peak", "order": "old", "scale": 3.0}, 1.5),
    # beyond 10 by 24: 10 - 1 + sqrt(24 + 1), and 10 + sqrt(25)
    (34.0, {"clip_soft": 10.0}, 14.0),
    (35.0, {"clip_soft": 10.0, "order": "old"}, 15.0),
    (10.0, {"clip_soft": 10.0}, 10.0),
    (10.0, {"clip_soft": 10.0, "order": "old"}, 10.0),
    (34.0, {"clip_soft": 10.0, "clip": 12.0}, 12.0),
    (35.0, {"clip_soft": 10.0, "clip": 12.0, "order": "old", "scale": 0.5}, 6.0),
    (35.0, {"clip": 12.0, "scale": 2.0}, 12.0),
    # a CAGE track of the Borzoi paper: 10000^0.75 = 1000, 384 + sqrt(616) = 408.82, below the clip
    (10000.0, {"statistic": "sum_sqrt", "order": "old", "clip_soft": 384.0, "clip": 768.0}, 384 + math.sqrt(616)),
    (-3.0, {"statistic": "mean", "scale": 2.0}, -6.0),
    (-3.0, {"statistic": "sum_sqrt"}, 0.0),
]


@pytest.mark.parametrize(("value", "settings", "target"), KNOWN)
def test_values_that_can_be_checked_by_eye(value, settings, target):
    assert target_of(value, **settings) == pytest.approx(target, rel=1e-14)
    is_cut = "clip" in settings and target == settings["clip"] * (
        settings.get("scale", 1) if settings.get("order") == "old" else 1
    )
    if value >= 0 and not is_cut and (settings.get("statistic"), value) != ("peak", 9.0):
        assert natural_of(target, **settings) == pytest.approx(value, rel=1e-14)


def test_what_was_cut_off_comes_back_as_the_value_cut_to():
    assert natural_of(12.0, clip_soft=10.0, clip=12.0) == 10 - 1 + 3**2
    assert natural_of(6.0, clip_soft=10.0, clip=12.0, order="old", scale=0.5) == 10 + 2**2
    assert natural_of(1.0, statistic="peak") == 0.25


def test_every_statistic_has_a_pooling_and_sum_exp75_no_old_order():
    assert set(POOLING) == set(get_args(SumStat))
    with pytest.raises(InputError, match='sum_exp75 has no order "old"'):
        track_transforms([a_track(statistic="sum_exp75", order="old")])
    with pytest.raises(InputError, match="statistic 'most' is not one of sum, mean, max"):
        Transforms.of(statistic=["most"], order=["new"], scale=[1.0], clip_soft=[None], clip=[None])


def plain(x: float, track: Track) -> float:
    """Transform one number with math alone, step by step."""
    if math.isnan(x):
        return x
    if track.order == "new":
        x *= track.scale
    if track.statistic == "peak":
        x = min(math.sqrt(4 * max(x, 0.0)), 1.0)
    if track.statistic in BENT:
        x = max(x, 0.0)
        if track.order == "old":
            x = x**0.75
        else:
            x = math.sqrt(1 + x) - 1 if track.statistic.endswith("sqrt") else (1 + x) ** 0.75 - 1
    c = track.clip_soft
    if c is not None and x > c:
        x = c + math.sqrt(x - c) if track.order == "old" else c - 1 + math.sqrt(x - c + 1)
    if track.clip is not None:
        x = min(x, track.clip)
    return x * track.scale if track.order == "old" else x


@st.composite
def some_tracks(draw):
    tracks = []
    for _ in range(draw(st.integers(1, 5))):
        clip_soft = draw(st.none() | st.floats(1, 1000))
        clip = draw(st.none() | st.floats(0, 1000).map(lambda more, least=clip_soft or 1.0: least + more))
        tracks.append(
            a_track(
                statistic=draw(st.sampled_from(get_args(SumStat))),
                scale=draw(st.floats(0.01, 100)),
                clip_soft=clip_soft,
                clip=clip,
            )
        )
        if tracks[-1].statistic != "sum_exp75" and draw(st.booleans()):
            tracks[-1] = a_track(
                statistic=tracks[-1].statistic, scale=tracks[-1].scale, clip_soft=clip_soft, clip=clip, order="old"
            )
    return tracks


values = st.just(NAN) | st.just(0.0) | st.floats(2.0**-20, 1e6, width=32)


@given(some_tracks(), st.data())
def test_each_track_is_transformed_by_its_own_formula(tracks, data):
    natural = data.draw(arrays.arrays(np.float64, (3, len(tracks)), elements=values))
    expected = [[plain(x, track) for x, track in zip(row, tracks, strict=True)] for row in natural.tolist()]
    transforms = track_transforms(tracks)
    # a difference of roots loses in `plain` what the bins below 1 gain: hence the absolute tolerance
    np.testing.assert_allclose(to_target(natural, transforms), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        to_target(torch.from_numpy(natural), transforms).numpy(), expected, rtol=1e-12, atol=1e-13
    )
    single = to_target(torch.from_numpy(natural.astype(np.float32)), transforms)
    assert single.dtype == torch.float32
    for column, track in enumerate(tracks):
        # above a soft clip of order "old" the root rises without bound: there half the digits are what float32 has
        steep = track.order == "old" and track.clip_soft is not None
        lost = 2 * track.scale * (track.clip_soft * float(np.finfo(np.float32).eps)) ** 0.5 if steep else 0.0
        column_expected = [row[column] for row in expected]
        np.testing.assert_allclose(single.numpy()[:, column], column_expected, rtol=3e-5, atol=1e-6 + lost)


@pytest.mark.parametrize(("kind", "tolerance"), [("float64", 1e-12), ("float32", 3e-5), ("torch", 3e-5)])
@given(tracks=some_tracks(), data=st.data())
def test_the_inverse_returns_what_went_in(kind, tolerance, tracks, data):
    dtype = np.float64 if kind == "float64" else np.float32
    natural = data.draw(arrays.arrays(dtype, (3, len(tracks)), elements=values))
    transforms = track_transforms(tracks)
    given_values = torch.from_numpy(natural) if kind == "torch" else natural
    target = to_target(given_values, transforms)
    back = np.asarray(to_natural(target, transforms))
    assert back.dtype == dtype
    # what exceeds the value that the clip is reached by comes back as that value
    most = to_natural(np.where(np.isfinite(transforms.top), transforms.cuts()[1], np.inf)[None], transforms)
    np.testing.assert_allclose(back, np.minimum(natural, most), rtol=tolerance)
    assert np.array_equal(np.isnan(back), np.isnan(natural))


@given(some_tracks(), st.floats(0, 1e4), st.floats(1e-3, 1e3))
def test_order_is_kept(tracks, value, step):
    natural = np.array([[value], [value + step]]) * np.ones(len(tracks))
    low, high = to_target(natural, track_transforms(tracks))
    assert (low <= high).all()
    assert (low < high)[(high < track_transforms(tracks).cuts()[1])].all()


@pytest.mark.parametrize("statistic", ["sum_sqrt", "sum_exp75"])
def test_small_values_keep_their_digits_in_single_precision(statistic):
    """A difference of roots near 1 would leave of 1e-6 one digit."""
    transforms = track_transforms([a_track(statistic=statistic)])
    natural = np.logspace(-9, 0, 50)[:, None]
    exact = to_target(natural, transforms)
    single = to_target(natural.astype(np.float32), transforms)
    np.testing.assert_allclose(single, exact, rtol=5e-7)
    np.testing.assert_allclose(to_natural(single, transforms), natural, rtol=1e-6)


@pytest.mark.parametrize("order", ["new", "old"])
def test_the_soft_clip_keeps_its_digits_in_single_precision(order):
    transforms = track_transforms([a_track(clip_soft=384.0, order=order)])
    natural = (384 + np.r_[0.0, np.logspace(-4, 5, 60)]).astype(np.float32)[:, None]
    target = to_target(natural, transforms)
    assert target.dtype == np.float32
    assert (np.diff(target[:, 0]) >= 0).all()
    # an error of half a unit in the last place of the target grows by up to sqrt(384) on the way back
    np.testing.assert_allclose(to_natural(target, transforms), natural, rtol=20 * np.finfo(np.float32).eps)


@pytest.mark.filterwarnings("error")
def test_infinities_and_huge_values_raise_no_warning():
    tracks = [a_track(statistic=name, clip_soft=soft) for name in get_args(SumStat) for soft in (None, 2.0)]
    tracks.append(a_track(clip=9.0))
    transforms = track_transforms(tracks)
    for dtype in (np.float32, np.float64):
        values = np.array([INF, np.finfo(dtype).max, NAN], dtype)[:, None] * np.ones(len(tracks), dtype)
        target = to_target(values, transforms)
        expected = [1.0 if track.statistic == "peak" else track.clip or INF for track in tracks]
        assert target[0].tolist() == expected
        assert np.isnan(target[2]).all()
        natural = to_natural(values, transforms)
        assert (natural[0] == INF).all()
        assert not np.isnan(natural[1]).any()
        assert np.array_equal(to_target(torch.from_numpy(values), transforms)[0].numpy(), target[0])
        assert np.isneginf(to_target(np.full((1, 1), -INF, dtype), track_transforms([a_track(clip_soft=2.0)])))


def test_the_type_is_kept_and_counts_are_not_cut_to_whole_numbers():
    transforms = track_transforms([a_track(statistic="sum_sqrt", scale=0.5, clip_soft=2.0)])
    for dtype in (torch.float32, torch.float64):
        assert to_natural(to_target(torch.rand(2, 3, 1, dtype=dtype), transforms), transforms).dtype == dtype
    for kind in (np.float32, np.float64):
        assert to_natural(to_target(np.ones((2, 1), kind), transforms), transforms).dtype == kind
    assert to_target(np.array([[16]]), transforms).item() == 2.0


def test_where_a_target_was_bent_and_cut_off():
    tracks = [
        a_track(clip_soft=4.0, clip=8.0, scale=2.0),
        a_track(clip_soft=4.0, clip=8.0, scale=2.0, order="old"),
        a_track(statistic="peak"),
        a_track(),
    ]
    soft, top = track_transforms(tracks).cuts()
    assert soft.tolist() == [4.0, 8.0, INF, INF]
    assert top.tolist() == [8.0, 16.0, 1.0, INF]


@pytest.mark.parametrize(
    ("settings", "there", "back"),
    [
        ({}, "mean over the bases of a bin", "none: a target is the value of its bin"),
        ({"statistic": "peak"}, "mean over the bases of a bin; sqrt(4 x), at most 1", "y² / 4"),
        (
            {"statistic": "sum_sqrt", "scale": 3.0, "clip_soft": 64.0},
            "sum over the bases of a bin; times 3; sqrt(1 + x) - 1; what then exceeds 64 becomes 63 + sqrt(x - 63)",
            "what exceeds 64 becomes (y - 63)² + 63; then (y + 1)² - 1; then divided by 3",
        ),
        (
            {"statistic": "max", "clip": 384.0},
            "max over the bases of a bin; what then exceeds 384 is cut off",
            "what was cut off at 384 stays so",
        ),
        (
            {"statistic": "mean_sqrt", "order": "old", "scale": 0.3, "clip_soft": 64.0},
            "mean over the bases of a bin; x^0.75; what then exceeds 64 becomes 64 + sqrt(x - 64); times 0.3",
            "divided by 0.3; then what exceeds 64 becomes (y - 64)² + 64; then y^(4/3)",
        ),
        (
            {"statistic": "sum_exp75"},
            "sum over the bases of a bin; (1 + x)^0.75 - 1",
            "(y + 1)^(4/3) - 1",
        ),
    ],
)
def test_the_formulas_in_words(settings, there, back):
    assert describe(a_track(**settings)) == there
    assert describe_inverse(a_track(**settings)) == back


def test_parameters_that_were_placed_once_make_the_same_values_and_are_not_brought_again(monkeypatch):
    tracks = [a_track(statistic=name, scale=0.7, clip_soft=2.0) for name in get_args(SumStat)]
    tracks.append(a_track(statistic="mean_sqrt", order="old", scale=0.7, clip=9.0))
    transforms = track_transforms(tracks)
    for dtype in (torch.float32, torch.float64):
        targets = 5 * torch.rand(4, 6, len(tracks), dtype=dtype)
        expected = to_natural(targets, transforms)
        placed = PlacedTransforms.beside(torch.empty(0, dtype=dtype), transforms)
        with monkeypatch.context() as patch:
            patch.delattr(torch, "from_numpy")
            found = to_natural(targets, placed)
        assert torch.equal(found, expected)
        assert found.dtype == dtype
