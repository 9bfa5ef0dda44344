import numpy as np
import pytest
from pydantic import ValidationError
from scipy.sparse import csr_array

from cisray.baselines.linear import LinearConfig, LinearTrack


def test_scores_are_sums_of_features():
    track = LinearTrack(np.array([2.0, -1.0, 0.5]), 3.0, converged=True)
    rows = csr_array(np.array([[1, 0, 4], [0, 2, 0], [0, 0, 0]], np.float32))
    assert track.decide(rows).tolist() == [7.0, 1.0, 3.0]


def test_settings_come_the_strongest_first():
    config = LinearConfig(penalties=(0.1, 1.0, 0.5))
    assert config.settings == (1.0, 0.5, 0.1)
    shares = {penalty: LinearConfig(penalty=penalty, l1_share=0.2).share for penalty in ("l1", "l2", "elastic_net")}
    assert shares == {"l1": 1.0, "l2": 0.0, "elastic_net": 0.2}


@pytest.mark.parametrize(
    "fields",
    [{"penalties": ()}, {"penalties": (0.0,)}, {"l1_share": 0.0}, {"l1_share": 1.5}, {"max_rounds": 0}],
)
def test_settings_that_cannot_be_are_refused(fields):
    with pytest.raises(ValidationError, match=r"linear: penalties=.*; wanted positive penalties, a share above 0"):
        LinearConfig(**fields)
    with pytest.raises(ValidationError, match="features: none; name at least one set"):
        LinearConfig(features=())
