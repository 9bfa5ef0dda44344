import numpy as np
import pytest

from cisray.errors import InputError
from cisray.scoring.effects import make_measure
from cisray.scoring.engine import Engine, EngineSpec
from cisray.scoring.lanes import Slot
from cisray.scoring.spot_check import SpotCheck
from engine_cases import engine_of, model_of, windows_of


def numbered(windows):
    """Give every window's rows, as scores, numbers that no other row of it has."""
    slots = [Slot(window, passes=1) for window in windows]
    return [(slot, {"sum": np.arange(slot.offsets[-1], dtype=np.float32)[:, None]}) for slot in slots]


def test_every_edit_is_drawn_as_often_as_any_other_and_keeps_its_own_scores():
    windows = windows_of(model_of("basenji2").geometry)
    seen = numbered(windows)
    drawn = np.zeros((2, len(windows[0].edits)))
    for seed in range(400):
        check = SpotCheck(rows=4, seed=seed)
        for slot, values in seen:
            check.see(slot, values)
        assert len(check._sample) == 4
        for window, values in check._sample:
            (edit,) = window.edits
            place = [edit is each for each in windows[window.window_start // 1000].edits].index(True)
            slot = seen[window.window_start // 1000][0]
            assert values["sum"][:, 0].tolist() == list(range(slot.offsets[place], slot.offsets[place + 1]))
            drawn[window.window_start // 1000, place] += 1
    assert drawn.sum() == 1600
    assert drawn.min() > 20  # 50 are expected, with a deviation of 7
    assert drawn.max() < 90


def test_the_scale_is_the_largest_score_of_all():
    check = SpotCheck(rows=0, seed=0)
    for slot, values in numbered(windows_of(model_of("basenji2").geometry)):
        check.see(slot, {"sum": -values["sum"]})
    assert check.largest == {"sum": slot.offsets[-1] - 1}
    assert check.run([], tolerance=1e-3) == {"sum": 0.0}


def engine_that_finds(monkeypatch, factor):
    """Return an engine whose alternates are so many times what they should be."""
    engine = engine_of("basenji2", check_rows=3)
    trunk = engine._lanes[0].trunk
    inner = trunk.alternates
    monkeypatch.setattr(trunk, "alternates", lambda rows, bins, *, reverse: factor * inner(rows, bins, reverse=reverse))
    return engine


def test_full_forwards_that_find_other_scores_stop_the_run(monkeypatch):
    engine = engine_that_finds(monkeypatch, 1.01)
    message = r"window at 0, base \d+: two full forwards score \w+ .* apart from what was found; wanted at most 0\.001"
    with pytest.raises(InputError, match=message):
        list(engine.score(windows_of(model_of("basenji2").geometry, num_windows=1)))


def test_a_place_is_not_held_against_full_forwards(monkeypatch):
    model = model_of("bpnet")
    measure = make_measure(["max_gain", "gain_offset"])
    spec = EngineSpec(batch_size=6, check_rows=5)
    for unchecked in ((), ("gain_offset",)):
        engine = Engine([model], measure=measure, spec=spec, unchecked=unchecked)
        full = engine._full_lanes[0]
        inner = full.measure

        def elsewhere(*arguments, inner=inner):
            found = inner(*arguments)
            return found | {"gain_offset": found["gain_offset"] + 3}

        monkeypatch.setattr(full, "measure", elsewhere)
        windows = windows_of(model.geometry, num_windows=1)
        if unchecked:
            list(engine.score(windows))
            assert set(engine.checked) == {"max_gain"}
        else:
            with pytest.raises(InputError, match="two full forwards score gain_offset 3 apart"):
                list(engine.score(windows))


def test_how_far_full_forwards_lie_apart_is_told(monkeypatch):
    engine = engine_that_finds(monkeypatch, 1 + 1e-6)
    list(engine.score(windows_of(model_of("basenji2").geometry, num_windows=1)))
    assert all(1e-8 < share < 1e-3 for share in engine.checked.values())
