import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cisray.genome.ranges import join_ranges

ranges = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 9)), max_size=20)


@given(ranges, st.sampled_from([np.int32, np.int64]))
def test_ranges_stand_one_behind_another(pairs, dtype):
    start, count = (np.array([pair[side] for pair in pairs], dtype) for side in (0, 1))
    assert join_ranges(start, count).tolist() == [number for a, n in pairs for number in range(a, a + n)]
