import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.models.layers import one_hot
from cisray.models.reach import reach_of
from cisray.scoring.passes import Pass, frame_of, lay, unchanged
from cisray.scoring.patches import Reference, Row, assemble, changed_bp, embed_patches, embed_unchanged
from cisray.scoring.windows import PlacedEdit
from engine_cases import FLANK_BP, model_of, windows_of


class Local:
    """A network's `local` in float64, and how many bases it was given."""

    def __init__(self, name):
        self.model = model_of(name)
        self.reaches = reach_of(self.model.network.local)
        self.bases = []

    @torch.no_grad()
    def __call__(self, codes):
        self.bases.append(codes.shape[1])
        outputs = self.model.network.local(one_hot(codes, torch.float64))
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def row(self, start, removed, inserted, *, anchor="left"):
        """Return an edit of the first window as a row."""
        (window,) = windows_of(self.model.geometry, num_windows=1)
        letters = (window.bases[FLANK_BP + start] + 1 + np.arange(inserted)) % 4
        edit = PlacedEdit(start, removed, letters.astype(np.uint8), np.ones((1, self.model.geometry.num_bins), bool))
        reading = Pass(0, reverse=False)
        frame = frame_of(window, reading)
        outputs = tuple(level[0] for level in self(torch.from_numpy(frame.window()[None])))
        return Row(Reference(frame, outputs, torch.empty(0)), lay(window, edit, reading, anchor=anchor))


@pytest.mark.parametrize("name", ["basenji2", "borzoi", "chrombpnet", "basset"])
@settings(max_examples=12)
@given(data=st.data())
def test_outputs_put_together_are_those_of_the_whole_alternate(name, data):
    local = Local(name)
    window_bp = local.model.geometry.window_bp
    rows = []
    for _ in range(2):
        removed, inserted = data.draw(st.sampled_from([(1, 1), (3, 3), (1, 0), (4, 1), (0, 1), (1, 7)]))
        start = data.draw(st.sampled_from([0, 1, window_bp // 3, window_bp - 5]) | st.integers(0, window_bp - 5))
        rows.append(local.row(start, removed, inserted, anchor=data.draw(st.sampled_from(["left", "right"]))))
    patched = embed_patches(rows, local.reaches, local)
    before = data.draw(st.sampled_from([embed_unchanged(rows, local.reaches, local), [None, None]]))
    found = assemble(rows, patched, before, local.reaches, local)
    expected = local(torch.from_numpy(np.stack([row.alternate.codes for row in rows])))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_substitution_reads_only_its_patch():
    local = Local("basenji2")
    rows = [local.row(start, 1, 1) for start in (100, 500)]
    local.bases.clear()
    assemble(rows, embed_patches(rows, local.reaches, local), [None, None], local.reaches, local)
    assert len(local.bases) == 1  # both in one call
    assert local.bases[0] < 1024 / 4


def test_an_error_that_patches_have_in_common_falls_out_of_a_substitution():
    local = Local("basenji2")

    def rounded_otherwise(codes):
        return tuple(level + (codes.shape[1] < 1024) for level in local(codes))

    rows = [local.row(500, 1, 1)]
    patched = embed_patches(rows, local.reaches, rounded_otherwise)
    (expected,) = local(torch.from_numpy(rows[0].alternate.codes[None]))
    (alone,) = assemble(rows, patched, [None], local.reaches, rounded_otherwise)
    assert (alone - expected).abs().max() > 0.99
    before = embed_unchanged(rows, local.reaches, rounded_otherwise)
    (beside,) = assemble(rows, patched, before, local.reaches, rounded_otherwise)
    torch.testing.assert_close(beside, expected, rtol=1e-10, atol=1e-10)


def test_indels_and_null_variants_are_patched_alone():
    local = Local("basenji2")
    substitution, deletion = local.row(500, 1, 1), local.row(400, 3, 1)
    null = Row(substitution.reference, unchanged(substitution.reference.frame, substitution.alternate))
    rows = [deletion, substitution, null]
    assert [each is None for each in embed_unchanged(rows, local.reaches, local)] == [True, False, True]
    local.bases.clear()
    assert embed_unchanged([deletion, null], local.reaches, local) == [None, None]
    assert not local.bases


def test_a_shifted_window_is_read_once_for_all_indels_of_a_length():
    local = Local("basenji2")
    first = local.row(300, 2, 0)
    second = Row(first.reference, local.row(900, 2, 0).alternate)
    patched = embed_patches([first, second], local.reaches, local)
    local.bases.clear()
    assemble([first, second], patched, [None, None], local.reaches, local)
    assert len(local.bases) == 1
    assemble([second], patched[1:], [None], local.reaches, local)
    assert len(local.bases) == 1


def test_lengths_of_edits_are_powers_of_two():
    local = Local("basenji2")
    lengths = [(1, 1), (3, 3), (2, 5), (2, 0)]
    assert [changed_bp([local.row(200, *each)]) for each in lengths] == [1, 4, 8, 1]
    assert changed_bp([local.row(200, *each) for each in lengths]) == 8
