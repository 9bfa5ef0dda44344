import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from cisray.baselines.feature_sets import (
    Composition,
    FeatureMaker,
    FeatureSet,
    GappedKmers,
    Kmers,
    Motifs,
    PlacedKmers,
    RegionKmers,
    check_sets,
)
from cisray.baselines.features import composition, count_gapped_kmers, count_kmers, motif_scores, place_kmers
from cisray.baselines.passes import pass_over
from cisray.baselines.region_kmers import count_region_kmers
from cisray.baselines.windows import Windows
from cisray.errors import InputError
from cisray.genome.motifs import read_motif

MEME = """MEME version 4

MOTIF M1 first
letter-probability matrix: alength= 4 w= 3
0.7 0.1 0.1 0.1
0.1 0.7 0.1 0.1
0.1 0.1 0.7 0.1

MOTIF M2 second
letter-probability matrix: alength= 4 w= 5
0.1 0.1 0.1 0.7
0.1 0.1 0.1 0.7
0.25 0.25 0.25 0.25
0.7 0.1 0.1 0.1
0.7 0.1 0.1 0.1
"""
REGIONS = {"left": (0, 10), "right": (10, 30)}


@pytest.fixture
def motif_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CISRAY_DATA", str(tmp_path))
    (tmp_path / "motifs.meme").write_text(MEME)
    return tmp_path / "motifs.meme"


def learn(maker, codes, targets):
    """Learn all that there is to learn, from windows in two parts."""
    half = len(codes) // 2
    maker.read_files()
    maker.learn(pass_over(Windows(codes[:half], targets[:half]), Windows(codes[half:], targets[half:])))


def random_codes(num=7, length=30, seed=0):
    return np.random.default_rng(seed).integers(0, 5, (num, length), np.uint8)


def test_the_columns_of_all_sets_stand_side_by_side(motif_file):
    sets = (
        Kmers(k=3),
        Kmers(k=2, fold_strands=False),
        GappedKmers(length_bp=4, k=2),
        PlacedKmers(k=1),
        Composition(regions=REGIONS),
        Motifs(path="motifs.meme", names=("M2", "first")),
        RegionKmers(longest=3, num_parts=3, num_kept=9),
    )
    codes, targets = random_codes(40), np.random.default_rng(1).normal(size=(40, 2))
    maker = FeatureMaker(sets, window_bp=30)
    learn(maker, codes, targets)
    rows = maker(codes).toarray()
    motifs = [read_motif(motif_file, name) for name in ("M2", "M1")]
    parts = [
        ("kmers", count_kmers(codes, 3).values.toarray(), count_kmers(codes, 3).names),
        ("kmers", count_kmers(codes, 2, fold_strands=False).values.toarray(), None),
        ("gapped_kmers", count_gapped_kmers(codes, 4, 2).values.toarray(), None),
        ("placed_kmers", place_kmers(codes, 1).values.toarray(), None),
        ("composition", composition(codes, REGIONS).values, composition(codes, REGIONS).names),
        ("motifs", motif_scores(codes, motifs).values, None),
        ("region_kmers", count_region_kmers(codes, maker.regions.numpy(), 3).toarray(), None),
    ]
    expected = np.hstack([values for _, values, _ in parts])
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(rows[known], expected[known])
    kinds = [kind for kind, values, _ in parts for _ in range(values.shape[1])]
    assert [name.partition(":")[0] for name in maker.names] == kinds
    assert maker.names[: len(parts[0][2])] == tuple(f"kmers:{name}" for name in parts[0][2])
    assert "motifs:M2 second.best" in maker.names
    assert maker(codes).dtype == np.float32
    assert maker(codes).indices.dtype == np.int32


def test_what_is_not_defined_counts_as_the_mean_of_the_training_windows():
    codes = random_codes(30)
    blank = np.full((1, 30), 4, np.uint8)
    maker = FeatureMaker((Composition(regions=REGIONS),), window_bp=30)
    learn(maker, np.concatenate([codes, blank]), np.zeros((31, 1)))
    expected = np.nanmean(composition(codes, REGIONS).values.astype(float), axis=0)
    np.testing.assert_allclose(maker(blank).toarray()[0], expected, rtol=1e-5)
    assert np.isnan(composition(blank, REGIONS).values).all()


def test_features_do_not_depend_on_the_company():
    maker = FeatureMaker((Kmers(k=3), PlacedKmers(k=2), Composition()), window_bp=30)
    codes = random_codes(2100)
    learn(maker, codes, np.zeros((2100, 1)))
    whole = maker(codes)
    for part in (slice(0, 1), slice(1000, 1100), slice(2099, 2100)):
        np.testing.assert_array_equal(maker(codes[part]).toarray(), whole[part].toarray())
    assert maker(codes[:0]).shape == (0, len(maker.names))


def test_motifs_travel_with_the_model_and_not_with_the_file(motif_file):
    sets = (Motifs(path="motifs.meme", names=("M1", "M2")),)
    maker, fresh, codes = FeatureMaker(sets, window_bp=30), FeatureMaker(sets, window_bp=30), random_codes()
    learn(maker, codes, np.zeros((7, 1)))
    motif_file.unlink()
    fresh.adopt(maker.state_dict())
    fresh.load_state_dict(maker.state_dict())
    fresh.check()
    np.testing.assert_array_equal(fresh(codes).toarray(), maker(codes).toarray())
    assert fresh.names == maker.names


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("motif_widths", lambda values: values + 5),
        ("motif_widths", lambda values: values * 0),
        ("motif_widths", lambda values: values[:1]),
        ("motif_scores", lambda values: values[:, :, :4]),
        ("motif_names", lambda values: values[:2]),
    ],
)
def test_damaged_motifs_are_refused(motif_file, name, change):
    sets = (Motifs(path="motifs.meme", names=("M1", "M2")),)
    maker, fresh = FeatureMaker(sets, window_bp=30), FeatureMaker(sets, window_bp=30)
    learn(maker, random_codes(), np.zeros((7, 1)))
    state = maker.state_dict()
    state[name] = change(state[name]).contiguous()
    fresh.adopt(state)
    fresh.load_state_dict(state)
    with pytest.raises(
        InputError, match=r"features\.motif_scores: .*; wanted 2 motifs \[motifs, bases, 5\], each with"
    ):
        fresh.check()


def test_damaged_regions_are_refused():
    maker = FeatureMaker((RegionKmers(longest=3, num_parts=2, num_kept=4),), window_bp=30)
    learn(maker, random_codes(30), np.random.default_rng(0).normal(size=(30, 1)))
    maker.check()
    maker.regions[0, 0] = 7
    with pytest.raises(InputError, match="1 of 4 stored k-mers of regions are longer than 3 bases"):
        maker.check()
    maker.regions = torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(
        InputError, match=r"features\.regions: torch\.int64 of shape \(4, 3\); wanted int64 \[k-mers, 4\]"
    ):
        maker.check()


def test_sets_are_read_by_name():
    adapter = TypeAdapter(tuple[FeatureSet, ...])
    given = [{"name": "kmers", "k": 5}, {"name": "composition", "regions": {"core": [80, 120]}}]
    assert adapter.validate_python(given) == (Kmers(k=5), Composition(regions={"core": (80, 120)}))
    with pytest.raises(ValidationError, match="words"):
        adapter.validate_python([{"name": "words"}])


def test_a_file_of_motifs_is_read_whole_unless_some_are_named(motif_file):
    whole, named = (FeatureMaker((Motifs(path="motifs.meme", names=names),), window_bp=30) for names in ((), ("M2",)))
    for maker in (whole, named):
        assert not maker.learns
        maker.read_files()
    kinds = ("best", "sum")
    assert whole.names == tuple(f"motifs:{name}.{kind}" for name in ("M1 first", "M2 second") for kind in kinds)
    np.testing.assert_array_equal(whole(random_codes()).toarray()[:, 2:], named(random_codes()).toarray())
    whole.motif_names = whole.motif_names[:5]
    with pytest.raises(InputError, match=r"with widths \[3, 5\] and 1 names; wanted 2 motifs"):
        whole.check()


def test_only_what_reads_training_windows_learns():
    for sets, learns in (((Kmers(),), False), ((Kmers(), Composition()), True), ((RegionKmers(),), True)):
        assert FeatureMaker(sets, window_bp=30).learns == learns


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ((), r"features: none; name at least one set, such as \[\{name = \"kmers\", k = 6\}\]"),
        ((Composition(), Composition()), "features: composition stands there twice; put both into one"),
        ((RegionKmers(), RegionKmers()), "features: region_kmers stands there twice"),
    ],
)
def test_sets_that_do_not_go_together_are_refused(sets, message):
    with pytest.raises(InputError, match=message):
        check_sets(sets)
    check_sets((Kmers(), Kmers(k=2)))


def test_settings_that_cannot_be_are_refused():
    for fields in ({"longest": 1}, {"longest": 9}, {"num_parts": 0}, {"num_parts": 65}, {"num_kept": 0}):
        with pytest.raises(ValidationError, match=r"features: region_kmers: .*; wanted 2 to 8 bases, 1 to 64 parts"):
            RegionKmers(**fields)
