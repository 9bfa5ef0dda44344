import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cisray.datasets.card import Track
from cisray.datasets.checks import (
    Suspicion,
    count_tracks,
    describe_suspicions,
    find_suspicions,
    first_of_each,
    rank_tracks,
    summary_rows,
)
from cisray.datasets.statistics import Tally

SPLITS = ("train", "valid", "test")
NUM_BINS = 2000


def sound(seed=0, num_bins=NUM_BINS):
    """Draw signal about which there is nothing to say."""
    rng = np.random.default_rng(seed)
    return {split: rng.gamma(2, 3, num_bins).astype("f4") for split in SPLITS}


def coin_flips(seed=0, share=0.3):
    rng = np.random.default_rng(seed)
    return {split: (rng.random(NUM_BINS) < share).astype("f4") for split in SPLITS}


@pytest.fixture
def card_of(make_card):
    """Make the card of tracks by name, each with its targets [M] per split; `settings` are those of every track."""

    def make(targets, *, settings=None, **fields):
        tracks = tuple(Track(name=name, file=f"{name}.bw", **(settings or {})) for name in targets)
        statistics = {
            split: Tally.of(
                np.stack([of_splits[split] for of_splits in targets.values()], -1)[None], tracks
            ).statistics(list(targets))
            for split in SPLITS
        }
        counts = {split: statistics[split][tracks[0].name].num_bins for split in SPLITS}
        return make_card(tracks=tracks, statistics=statistics, counts=counts, **fields)

    return make


def told(card, track="odd"):
    return {one.check: one.text for one in find_suspicions(card) if one.track == track}


def test_nothing_is_said_of_sound_tracks(card_of):
    assert find_suspicions(card_of({"a": sound(0), "b": sound(1)})) == []
    assert find_suspicions(card_of({"a": coin_flips(0), "b": coin_flips(1)}, kind="labels", target_type="u1")) == []
    centred = {name: {split: x - 6 for split, x in sound(seed).items()} for seed, name in enumerate("ab")}
    assert find_suspicions(card_of(centred, kind="measurements", genome=None)) == []


def masked(targets, share):
    """Take the data from the first part of every split."""
    return {split: np.where(np.arange(len(x)) < share * len(x), np.nan, x) for split, x in targets.items()}


def with_value(targets, value, *, splits=SPLITS, first=0, bins=1):
    """Set a few bins to a value."""
    changed = {split: x.copy() for split, x in targets.items()}
    for split in splits:
        changed[split][first : first + bins] = value
    return changed


@pytest.mark.parametrize(
    ("odd", "check", "text"),
    [
        (masked(sound(), 1), "empty", "no data in any split"),
        (with_value(sound(), 2.5, bins=NUM_BINS), "constant", "every bin with data is 2.5"),
        (
            with_value(sound(), np.nan, splits=["valid"], bins=NUM_BINS),
            "empty in a split",
            "no data in the valid split",
        ),
        (
            with_value(sound(), 0, splits=["test"], bins=NUM_BINS),
            "constant in a split",
            "every bin with data of the test split is 0",
        ),
        (with_value(sound(), np.inf, splits=["valid"]), "infinite", "holds infinite values"),
        (with_value(sound(), -2.25, splits=["test"]), "below zero", "goes down to -2.25, but signal is 0 or more"),
        (
            with_value(sound(), 0, first=7, bins=NUM_BINS - 8),
            "nearly all zero",
            "99.60% of bins with data are 0",
        ),
        (
            masked(sound(), 0.6),
            "mostly without data",
            "no data in 60.0% of the train split and 60.0% of the valid split and 60.0% of the test split",
        ),
    ],
)
def test_each_odd_track_is_found_for_what_it_is(card_of, odd, check, text):
    card = card_of({"a": sound(1), "odd": odd, "b": sound(2)})
    assert told(card) == {check: text}
    assert {one.track: one.file for one in find_suspicions(card)} == {"odd": "odd.bw"}


def test_thresholds_are_strict(card_of):
    card = card_of({"half": masked(sound(), 0.5), "zeros": with_value(sound(1), 0, bins=NUM_BINS * 99 // 100)})
    assert "mostly without data" not in told(card, "half")
    assert "nearly all zero" not in told(card, "zeros")


def test_an_outlier_is_measured_in_standard_deviations(card_of):
    odd = with_value(sound(), 2000, splits=["train"])
    every = np.concatenate(list(odd.values())).astype(np.float64)
    many = (2000 - every.mean()) / every.std()
    assert many > 50
    words = f"reaches 2,000, {many:,.0f} standard deviations above its mean of {every.mean():.4g}"
    (one,) = find_suspicions(card_of({"odd": odd}))
    assert (one.severity, one.check, one.text) == ("note", "far outlier", words)
    assert one.cure.endswith("set clip_soft")
    assert find_suspicions(card_of({"odd": odd}, settings={"clip_soft": 5000}))[0].cure.endswith("or set clip")
    assert find_suspicions(card_of({"odd": odd}, kind="measurements"))[0].cure == "look at that row"
    assert find_suspicions(card_of({"odd": with_value(sound(), 60, splits=["train"])})) == []


def test_clipped_bins_are_counted(card_of):
    targets = {split: np.minimum(x, 20) for split, x in sound().items()}
    every = np.concatenate(list(targets.values()))
    cut, soft = int((every >= 20).sum()), int((every > 10).sum())
    assert cut > 6
    card = card_of({"odd": targets}, settings={"clip_soft": 10.0, "clip": 20.0})
    assert told(card) == {
        "many bins cut off": f"{cut} bins ({cut / len(every):.2%}) were cut off at 20",
        "many bins soft-clipped": f"{soft:,} bins ({soft / len(every):.2%}) are above clip_soft, 10",
    }
    assert told(card_of({"odd": targets}, settings={"clip_soft": 21.0, "clip": 1000.0})) == {}


def test_a_peak_is_not_blamed_for_its_end_at_one(card_of):
    targets = {split: np.minimum(x, 1) for split, x in sound().items()}
    assert told(card_of({"odd": targets}, settings={"statistic": "peak"})) == {}


@pytest.mark.parametrize(("factor", "words"), [(3.0, r"\(3\.\d times more\)"), (0.2, r"\(5\.\d times less\)")])
def test_a_split_of_another_mean_is_told(card_of, factor, words):
    odd = sound() | {"test": sound(7)["test"] * factor}
    (text,) = told(card_of({"odd": odd})).values()
    train, test = (odd[split].mean(dtype=np.float64) for split in ("train", "test"))
    assert text.startswith(f"mean {test:.3g} in test (")
    assert text.endswith(f"against {train:.3g} in train")
    assert re.search(words, text)


def test_chance_in_a_small_split_is_no_shift(card_of):
    rng = np.random.default_rng(0)
    sparse = {split: (rng.random(NUM_BINS) < 0.01) * rng.gamma(1, 50, NUM_BINS) for split in SPLITS}
    few = sparse | {"test": np.r_[0.0, 300.0, np.full(NUM_BINS - 2, np.nan)]}
    assert few["test"][:2].mean() > 100 * sparse["train"].mean()
    assert "another mean in a split" not in told(card_of({"odd": few}))


def test_measurements_are_compared_by_their_spread(card_of):
    near, far = (sound() | {"test": sound(3)["test"] + shift} for shift in (1.5, 3.0))
    spread = np.std(near["train"], dtype=np.float64)
    assert 1.5 < 0.5 * spread < 3
    assert told(card_of({"odd": near}, kind="measurements")) == {}
    (text,) = told(card_of({"odd": far}, kind="measurements")).values()
    apart = abs(far["test"].mean(dtype=np.float64) - far["train"].mean(dtype=np.float64)) / spread
    assert f"in test ({apart:.1f} standard deviations), against" in text


def test_float16_near_its_end_is_told(card_of):
    odd = with_value(sound(), 40_000, splits=["train"])
    text = told(card_of({"odd": odd}, target_type="<f2"))["near the end of float16"]
    assert text == "reaches 40,000; float16 ends at 65,504"
    low = card_of({"odd": with_value(sound(), -40_000)}, kind="measurements", target_type="<f2")
    assert told(low) == {"near the end of float16": "reaches -40,000; float16 ends at 65,504"}
    assert "near the end of float16" not in told(card_of({"odd": odd}))
    assert "near the end of float16" not in told(card_of({"odd": with_value(sound(), 30_000)}, target_type="<f2"))


def flags(positives, known=NUM_BINS):
    """Return labels with so many positives, unknown from `known` on."""
    return np.where(np.arange(NUM_BINS) < known, np.arange(NUM_BINS) < positives, np.nan)


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        ({split: flags(0) for split in SPLITS}, {"constant": "no positive in any split"}),
        ({split: flags(NUM_BINS) for split in SPLITS}, {"constant": "every example is positive"}),
        (
            {"train": flags(900), "valid": flags(0), "test": flags(800)},
            {"constant in a split": "no positive in the valid split"},
        ),
        (
            {"train": flags(1100), "valid": flags(NUM_BINS), "test": flags(1000)},
            {"constant in a split": "no negative in the valid split"},
        ),
        (
            {"train": flags(15), "valid": flags(9), "test": flags(10)},
            {"few labels of a kind": "only 9 positives in valid"},
        ),
        (
            {"train": flags(700), "valid": flags(29, known=30), "test": flags(800)},
            {
                "few labels of a kind": "only 1 negative in valid",
                "mostly without data": "no data in 98.5% of the valid split",
                "another mean in a split": "mean 0.967 in valid (2.8 times more), against 0.35 in train",
            },
        ),
    ],
)
def test_classes_are_told_of_by_their_counts(card_of, odd, expected):
    assert told(card_of({"a": coin_flips(), "odd": odd}, kind="labels", target_type="u1")) == expected


def test_tracks_that_hold_the_same_are_told_of_each_other(card_of):
    card = card_of({"a": sound(0), "b": sound(1), "c": sound(0), "d": sound(0), "none": masked(sound(), 1)})
    texts = {one.track: one.text for one in find_suspicions(card) if one.check == "same as another track"}
    assert texts == {
        "a": "the same statistics in every split as c (c.bw) and 1 more",
        "c": "the same statistics in every split as a (a.bw) and 1 more",
        "d": "the same statistics in every split as a (a.bw) and 1 more",
    }
    nearly = sound(0)
    nearly["test"][3] *= 1.001
    assert find_suspicions(card_of({"a": sound(0), "b": nearly})) == []


@pytest.mark.parametrize(("positives", "is_told"), [(20, False), (200, True)])
def test_rare_classes_may_have_the_same_counts_by_chance(card_of, positives, is_told):
    labels = {split: flags(positives) for split in SPLITS}
    card = card_of({"a": labels, "b": labels}, kind="labels", target_type="u1")
    assert bool(find_suspicions(card)) == is_told


def many(card_of):
    targets = {f"t{index:02}": sound(index) for index in range(12)}
    targets |= {f"z{index}": with_value(sound(), 0, bins=NUM_BINS) for index in range(5)}
    targets["t03"] = masked(sound(3), 0.7)
    targets["t05"] = masked(sound(5), 1)
    return card_of(targets)


def test_warnings_come_first_and_their_tracks_too(card_of):
    card = many(card_of)
    suspicions = find_suspicions(card)
    assert [one.track for one in suspicions] == ["t05", "z0", "z1", "z2", "z3", "z4", "t03"]
    assert [one.severity for one in suspicions] == ["warning"] * 6 + ["note"]
    ranked = [track.name for track in rank_tracks(card, suspicions)]
    assert ranked[:8] == ["t05", "z0", "z1", "z2", "t03", "z3", "z4", "t00"]
    assert sorted(ranked) == sorted(card.track_names)
    assert count_tracks(suspicions, "warning") == {"constant": 5, "empty": 1}
    assert count_tracks(suspicions, "note") == {"mostly without data": 1}


def test_a_terminal_gets_a_few_lines_of_each_kind(card_of):
    suspicions = find_suspicions(many(card_of))
    lines = describe_suspicions(suspicions, most=2)
    assert lines[0] == (
        "warning: t05 (t05.bw): no data in any split; see whether its file is of this genome, or leave it out"
    )
    assert [line.split(" (")[0] for line in lines[1:]] == [
        "warning: z0",
        "warning: z1",
        "note: t03",
        "and 3 more",
    ]
    assert lines[-1] == "and 3 more (constant: 3); see the report"
    assert describe_suspicions([]) == []
    shown, rest = first_of_each(suspicions, most=2)
    assert len(shown) + sum(rest.values()) == len(suspicions)


def test_a_terminal_gets_a_row_per_track(card_of):
    targets = {"a": sound(), "gap": masked(sound(1), 0.25), "none": masked(sound(), 1), "last": sound(2)}
    rows = summary_rows(card_of(targets), most_tracks=3)
    means = {
        name: {s: np.nanmean(x[s], dtype=np.float64) for s in SPLITS} for name, x in targets.items() if name != "none"
    }
    assert rows == [
        ["", *SPLITS],
        ["examples", "2,000", "2,000", "2,000"],
        ["a", *(f"{means['a'][split]:.3g} (100%)" for split in SPLITS)],
        ["gap", *(f"{means['gap'][split]:.3g} (75%)" for split in SPLITS)],
        ["none", *["no data"] * 3],
        ["and 1 more", "", "", ""],
    ]
    labels = {"train": flags(1500), "valid": flags(30, known=1000), "test": flags(0)}
    assert summary_rows(card_of({"x": labels}, kind="labels", target_type="u1"))[2:] == [
        ["x", "1,500 (100%)", "30 (50%)", "0 (100%)"]
    ]


odd_values = st.one_of(st.just(math.nan), st.just(0.0), st.just(1.0), st.just(math.inf), st.floats(-1e6, 1e6, width=32))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(arrays.arrays(np.float32, (3, 8), elements=odd_values), min_size=1, max_size=5),
    st.sampled_from(["coverage", "measurements"]),
    st.randoms(use_true_random=False),
)
def test_any_targets_are_looked_at_and_the_order_of_tracks_changes_nothing(card_of, rows, kind, random):
    targets = {f"t{index}": dict(zip(SPLITS, of_track, strict=True)) for index, of_track in enumerate(rows)}
    shuffled = list(targets)
    random.shuffle(shuffled)
    found = find_suspicions(card_of(targets, kind=kind))
    again = find_suspicions(card_of({name: targets[name] for name in shuffled}, kind=kind))
    key = [(one.track, one.check, one.severity) for one in found]
    assert Counter(key) == Counter((one.track, one.check, one.severity) for one in again)
    assert max(Counter(key).values(), default=0) <= 3  # one a split
    for name, of_splits in targets.items():
        own = [one for one in found if one.track == name]
        every = np.concatenate(list(of_splits.values()))
        assert all(isinstance(one, Suspicion) and one.file == f"{name}.bw" for one in own)
        assert ([one.check for one in own] == ["empty"]) == bool(np.isnan(every).all())
        assert ("infinite" in [one.check for one in own]) == bool(np.isinf(every).any())
        if not np.isinf(every).any() and kind == "coverage" and np.nanmin(np.r_[every, np.inf]) < 0:
            assert {one.check for one in own} & {"below zero", "constant"}
