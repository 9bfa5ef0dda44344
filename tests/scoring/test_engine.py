import copy

import numpy as np
import pytest
import torch

from cisray.datasets.transforms import Transforms
from cisray.errors import InputError
from cisray.scoring import patches, trunks
from cisray.scoring.engine import Engine, EngineSpec
from engine_cases import CONFIGS, NUM_TRACKS, engine_of, full_scores, measure, model_of, windows_of


def score_all(engine, windows):
    return list(engine.score(windows))


def expected_scores(name, window, **settings):
    """Return scores by full forwards, measured like the engine's, with one measure call per edit and pass."""
    model = model_of(name)
    parts = []
    for edit in window.edits:
        passes = [measure(*each) for each in full_scores(model, window, edit, **settings)]
        parts.append({name: torch.stack([one[name] for one in passes]).mean(dim=0) for name in ("delta_sum", "l2")})
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in ("delta_sum", "l2")}


def assert_equal_scores(found, expected, *, share=1e-10):
    for name, values in expected.items():
        assert found.values[name].shape == values.shape
        np.testing.assert_allclose(found.values[name], values, rtol=0, atol=share * np.abs(values).max(), err_msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_network_scores_as_full_forwards_do(name):
    engine = engine_of(name, strands="both")
    geometry = model_of(name).geometry
    windows = windows_of(geometry)
    align = "none" if geometry.num_bins == 1 else "ref_coords" if geometry.bin_bp == 1 else "stitch"
    scored = score_all(engine, windows)
    assert len(scored) == len(windows)
    for window, found in zip(windows, scored, strict=True):
        assert found.passes == 2
        assert_equal_scores(found, expected_scores(name, window, align=align, strands=(False, True)))
    largest = max(np.abs(found.values["delta_sum"]).max() for found in scored)
    assert largest > 1e-3
    assert set(engine.noise_floor) == {"delta_sum", "l2"}
    assert engine.noise_floor["delta_sum"] < 1e-12 * max(1, largest)


@pytest.mark.parametrize("name", ["enformer", "borzoi"])
def test_patches_beside_those_of_the_reference_score_as_full_forwards_do(name, monkeypatch):
    made = []

    def embed_unchanged(*settings):
        made.append(patches.embed_unchanged(*settings))
        return made[-1]

    monkeypatch.setattr(trunks, "SHORT_PATCHES", 0)
    monkeypatch.setattr(trunks, "embed_unchanged", embed_unchanged)
    (window,) = windows_of(model_of(name).geometry, num_windows=1)
    (found,) = score_all(engine_of(name, strands="both"), [window])
    assert_equal_scores(found, expected_scores(name, window, align="stitch", strands=(False, True)))
    assert any(each is not None for batch in made for each in batch)


@pytest.mark.parametrize("align", ["none", "stitch", "ref_coords"])
@pytest.mark.parametrize("name", ["enformer", "borzoi", "basenji2", "bpnet", "chrombpnet"])
def test_indels_are_aligned_as_asked_in_every_shift(name, align):
    geometry = model_of(name).geometry
    if align == "ref_coords" and geometry.bin_bp > 1:
        with pytest.raises(InputError, match="indel_align=ref_coords maps bases, and the model's bins have"):
            engine_of(name, indel_align=align)
        return
    (window,) = windows_of(geometry, num_windows=1, seed=5, margin=3)
    engine = engine_of(name, indel_align=align, shifts=(-3, 2), strands="both", batch_size=9)
    (found,) = score_all(engine, [window])
    assert found.passes == 4
    assert_equal_scores(found, expected_scores(name, window, align=align, strands=(False, True), shifts=(-3, 2)))


@pytest.mark.parametrize("name", ["enformer", "basenji2", "bpnet", "basset"])
def test_float32_is_as_near_to_the_exact_scores_as_full_forwards_in_float32_are(name):
    double = model_of(name)
    windows = windows_of(double.geometry)
    exact = score_all(engine_of(name), windows)
    model = double._replace(network=copy.deepcopy(double.network).float())
    fast, full = (Engine([model], measure=measure, spec=EngineSpec(batch_size=6, check_rows=0)) for _ in range(2))
    full._lanes = full._full_lanes
    for score in ("delta_sum", "l2"):
        wanted = np.concatenate([one.values[score] for one in exact])
        off = [
            np.abs(np.concatenate([one.values[score] for one in score_all(engine, windows)]) - wanted).max()
            for engine in (fast, full)
        ]
        assert 0 < off[0] <= max(1e-5 * np.abs(wanted).max(), 2 * off[1])


def test_a_profile_in_float32_is_followed_closer_than_full_forwards_are():
    double = model_of("bpnet")
    windows = [
        window._replace(edits=tuple(edit for edit in window.edits if len(edit.inserted) == edit.removed_bp))
        for window in windows_of(double.geometry)
    ]
    exact = score_all(engine_of("bpnet"), windows)
    engine = Engine(
        [double._replace(network=copy.deepcopy(double.network).float())],
        measure=measure,
        spec=EngineSpec(batch_size=6, check_rows=20),
    )
    found = score_all(engine, windows)
    wanted = np.concatenate([one.values["delta_sum"] for one in exact])
    off = np.abs(np.concatenate([one.values["delta_sum"] for one in found]) - wanted).max() / np.abs(wanted).max()
    assert off < 1e-6
    assert engine.checked["delta_sum"] > 2 * off


def test_scores_do_not_depend_on_the_batch_or_on_the_other_windows():
    windows = windows_of(model_of("basenji2").geometry, num_windows=3)
    together = score_all(engine_of("basenji2", batch_size=16), windows)
    for window, found in zip(windows, together, strict=True):
        (alone,) = score_all(engine_of("basenji2", batch_size=3), [window])
        assert_equal_scores(found, {name: alone.values[name] for name in ("delta_sum", "l2")})


@pytest.mark.parametrize("name", ["enformer", "basenji2", "bpnet", "basset", "kmer_ridge"])
def test_tracks_are_those_asked_for_in_their_order(name):
    windows = windows_of(model_of(name).geometry, num_windows=1)
    for strands in ("forward", "both"):
        spec = EngineSpec(batch_size=6, strands=strands, check_rows=0)
        (all_tracks,) = score_all(Engine([model_of(name)], measure=measure, spec=spec), windows)
        (some,) = score_all(Engine([model_of(name)], measure=measure, spec=spec, tracks=[2, 0]), windows)
        assert_equal_scores(some, {name: all_tracks.values[name][:, [2, 0]] for name in ("delta_sum", "l2")})


def test_models_are_averaged_by_score():
    model = model_of("basenji2")
    other = model._replace(network=copy.deepcopy(model.network))
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.mul_(1.1)
    windows = windows_of(model.geometry, num_windows=1)
    spec = EngineSpec(batch_size=6, check_rows=0)
    each = [score_all(Engine([one], measure=measure, spec=spec), windows)[0] for one in (model, other)]
    (both,) = score_all(Engine([model, other], measure=measure, spec=spec), windows)
    assert both.passes == 2
    for name in ("delta_sum", "l2"):
        expected = (each[0].values[name] + each[1].values[name]) / 2
        np.testing.assert_allclose(both.values[name], expected, rtol=1e-9, atol=1e-12)


def test_transforms_are_undone_before_scores_are_made():
    model = model_of("basenji2")
    transforms = Transforms.of(
        statistic=["sum"] * 3, order=["new"] * 3, scale=[2.0, 4.0, 0.5], clip_soft=[None] * 3, clip=[None] * 3
    )
    windows = windows_of(model.geometry, num_windows=1)
    (plain,) = score_all(engine_of("basenji2"), windows)
    scaled = Engine(
        [model._replace(transforms=transforms)],
        measure=measure,
        spec=EngineSpec(batch_size=6, check_rows=0),
        tracks=[1, 2],
    )
    (found,) = score_all(scaled, windows)
    np.testing.assert_allclose(found.values["l2"], plain.values["l2"][:, 1:] / [4.0, 0.5], rtol=1e-9)


def test_windows_come_in_order_and_as_soon_as_they_are_done():
    windows = windows_of(model_of("basenji2").geometry, num_windows=4)
    taken = []

    def arriving():
        for number, window in enumerate(windows):
            taken.append(number)
            yield window._replace(edits=window.edits[:7])

    engine = engine_of("basenji2", batch_size=3)
    first = next(engine.score(arriving()))
    assert len(taken) < 4
    assert first.values["l2"].shape == (11, NUM_TRACKS)


def test_a_window_without_edits_scores_nothing():
    (window,) = windows_of(model_of("basenji2").geometry, num_windows=1)
    empty = window._replace(edits=())
    scored = score_all(engine_of("basenji2"), [empty, window, empty])
    assert scored[0].values == {}
    assert len(scored[1].values["l2"]) == sum(len(edit.masks) for edit in window.edits)
    assert score_all(engine_of("basenji2"), []) == []


def test_predictions_that_are_no_numbers_are_told():
    model = model_of("basenji2")
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        next(network.head.parameters()).fill_(torch.nan)
    engine = Engine([model._replace(network=network)], measure=measure, spec=EngineSpec(batch_size=4))
    with pytest.raises(InputError, match=r"window at 0: delta_sum is not finite for \d+ of \d+ rows"):
        score_all(engine, windows_of(model.geometry, num_windows=1))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precisions_stay_near_and_say_how_far_off_they_are(precision):
    double = model_of("enformer")
    model = double._replace(network=copy.deepcopy(double.network).float())
    windows = windows_of(model.geometry, num_windows=1)
    engine = Engine([model], measure=measure, spec=EngineSpec(batch_size=6, precision=precision, check_rows=5))
    score_all(engine, windows)
    assert max(engine.checked.values()) < (0.25 if precision == "bf16" else 0.05)
    assert (max(engine.checked.values()) > 1e-4) == (precision == "bf16")


NARROW = ["basenji2", "basenji2018", "bpnet", "chrombpnet"]


def substitutions_of(geometry):
    """Return windows whose edits change no length: those that are followed through few bins."""
    return [
        window._replace(edits=tuple(edit for edit in window.edits if len(edit.inserted) == edit.removed_bp))
        for window in windows_of(geometry)
    ]


def in_single(name, **settings):
    """Return an engine of a network in float32."""
    model = model_of(name)
    model = model._replace(network=copy.deepcopy(model.network).float())
    return Engine([model], measure=measure, spec=EngineSpec(**({"batch_size": 6, "check_rows": 0} | settings)))


def all_values(engine, windows):
    scored = score_all(engine, windows)
    return {name: np.concatenate([one.values[name] for one in scored]) for name in ("delta_sum", "l2")}


@pytest.mark.parametrize("name", NARROW)
def test_a_change_followed_in_bf16_is_nearer_to_float32_than_full_forwards_in_bf16(name, monkeypatch):
    windows = substitutions_of(model_of(name).geometry)
    wanted = all_values(in_single(name), windows)
    engine, whole = in_single(name, precision="bf16"), in_single(name, precision="bf16")
    trunk, followed = engine._lanes[0].trunk, []
    inner = trunk._narrow_alternates
    monkeypatch.setattr(
        trunk, "_narrow_alternates", lambda rows, *a, **k: followed.extend(rows) or inner(rows, *a, **k)
    )
    found = all_values(engine, windows)
    assert len(followed) > sum(len(window.edits) for window in windows)  # all of them, and null variants
    whole._lanes = whole._full_lanes
    monkeypatch.setattr(whole._lanes[0].trunk, "precision", "bf16")
    plain = all_values(whole, windows)
    for score, values in wanted.items():
        off, off_plain = (np.abs(other[score] - values) for other in (found, plain))
        assert 0 < off.max() < 0.15 * np.abs(values).max()
        assert off.mean() < 0.3 * off_plain.mean()


@pytest.mark.parametrize("name", ["basenji2", "basenji2018"])
def test_the_head_behind_bf16_runs_in_float32(name):
    engine = in_single(name, precision="bf16")
    seen = set()

    def note(_, inputs, output):
        seen.update((inputs[0].dtype, output.dtype, torch.is_autocast_enabled("cpu")))

    engine._lanes[0].trunk.head.register_forward_hook(note)
    score_all(engine, substitutions_of(model_of(name).geometry))
    assert seen == {torch.float32, False}


@pytest.mark.parametrize("name", ["basenji2", "bpnet"])
def test_the_noise_floor_of_bf16_is_what_its_rounding_is_worth(name):
    windows = substitutions_of(model_of(name).geometry)
    wanted = all_values(in_single(name), windows)
    unchecked = in_single(name, precision="bf16")
    found = all_values(unchecked, windows)
    off = {score: np.abs(found[score] - wanted[score]).max() for score in wanted}
    for score, floor in unchecked.noise_floor.items():
        assert floor < 0.01 * off[score]  # a change of nothing is rounded alike on both sides
    for rows, share in ((100, 0.99), (4, 0.05)):
        engine = in_single(name, precision="bf16", check_rows=rows)
        score_all(engine, windows)
        for score, floor in engine.noise_floor.items():
            assert share * off[score] < floor < 1.01 * off[score]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 2}, "batch_size=2 leaves no room beside the null variant for both readings of an indel"),
        ({"batch_size": 1, "indel_align": "none"}, "batch_size=1 leaves no room beside the null variant for an edit"),
        ({"shifts": ()}, r"shifts=\(\); wanted one or more, none of them twice"),
        ({"shifts": (1, 1)}, r"shifts=\(1, 1\); wanted one or more, none of them twice"),
        ({"cuda_graphs": True}, "cuda_graphs=true launches compiled code; set compile=true too, or leave it out"),
        ({"tolerance": 0.0}, r"tolerance=0\.0; wanted 0 or more, and a positive share"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ValueError, match=message):
        EngineSpec(**settings)


def test_cuda_graphs_are_refused_without_a_gpu():
    with pytest.raises(InputError, match="cuda_graphs=true, but the engine runs on cpu; score on a GPU, or leave it"):
        engine_of("basenji2", compile=True, cuda_graphs=True)


def test_models_and_windows_that_do_not_fit_are_told():
    spec = EngineSpec(check_rows=0)
    with pytest.raises(InputError, match=r"models with \(window_bp, bin_bp, crop_bins\) of .*; wanted one or more of"):
        Engine([model_of("basenji2"), model_of("basenji")], measure=measure, spec=spec)
    with pytest.raises(InputError, match=r"models with \(window_bp, bin_bp, crop_bins\) of \[\]"):
        Engine([], measure=measure, spec=spec)
    (window,) = windows_of(model_of("basenji2").geometry, num_windows=1)
    with pytest.raises(InputError, match="uint8 codes of 1023 bp between flanks of 24 bp; wanted uint8 and 1024 bp"):
        score_all(engine_of("basenji2"), [window._replace(bases=window.bases[1:])])
    bad = window.edits[0]._replace(masks=np.ones((1, 3), bool))
    with pytest.raises(InputError, match=r"masks \(1, 3\) of edit 0 keep 3 bins; wanted at least one of 58"):
        score_all(engine_of("basenji2"), [window._replace(edits=(bad,))])
