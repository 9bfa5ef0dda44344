import numpy as np
import pytest
from pydantic import ValidationError

from cisray.baselines.gkm_estimator import GkmSvmConfig, decide_by_tables, has_lmers
from cisray.baselines.gkm_filters import GkmSpec
from cisray.baselines.gkm_table import GkmTable
from cisray.errors import InputError

SPEC = GkmSpec(l=5, k=3, d=2)


@pytest.mark.parametrize("kernel", ["gkm", "wgkm"])
def test_several_tables_score_as_each_does(kernel):
    random = np.random.default_rng(0)
    spec = GkmSpec(l=5, k=3, d=2, kernel=kernel)
    tables = [GkmTable(spec, random.normal(size=4**5).astype(np.float32), rho) for rho in (0.5, -2.0)]
    codes = random.integers(0, 5, (6, 30), np.uint8)
    expected = np.stack([table.score(list(codes)) for table in tables], axis=1)
    np.testing.assert_allclose(decide_by_tables(tables, codes), expected, rtol=1e-12)
    codes[2] = 4  # no l-mer is left
    assert decide_by_tables(tables, codes)[2].tolist() == [-0.5, 2.0]


def test_windows_that_hold_an_lmer():
    codes = np.array([[0, 0, 0, 4, 0, 0], [0, 4, 0, 0, 0, 1], [4, 4, 4, 4, 4, 4]], np.uint8)
    assert has_lmers(codes, GkmSpec(l=3, k=3, d=0)).tolist() == [True, True, False]
    assert has_lmers(codes, GkmSpec(l=4, k=3, d=0)).tolist() == [False, True, False]
    with pytest.raises(InputError, match="gkm_svm: windows of 6 bases; wanted at least the l=7 of an l-mer"):
        has_lmers(codes, GkmSpec(l=7, k=3, d=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prices": ()}, r"gkm_svm: prices=\[\], most_windows=10000; wanted at least one price"),
        ({"most_windows": 1}, "most_windows=1; wanted at least one price and two windows"),
        ({"prices": (1.0, 0.0)}, r"gkm_svm: prices=\[1\.0, 0\.0\], tolerance=.*; wanted positive numbers, and epsilon"),
        ({"epsilon": -1.0}, r"epsilon=-1\.0; wanted positive numbers, and epsilon zero or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        GkmSvmConfig(**fields)
