import copy

import numpy as np
import pytest
import torch
from torch import nn

from cisray.scoring import trunks
from cisray.scoring.passes import Pass, frame_of, lay
from cisray.scoring.patches import Row
from cisray.scoring.readout import Readout
from cisray.scoring.tails import Bins
from cisray.scoring.trunks import PatchTrunk, WholeTrunk, reference_rows, trunk_of
from engine_cases import model_of, predict, windows_of

FORWARD = Pass(0, reverse=False)


def make_trunk(model):
    readout = Readout(model, None, both=False)
    return trunk_of(model.network, readout, device=torch.device("cpu"), precision="float32", compiled_rows=())


def substitutions(model, trunk, *, num_windows=2):
    """Return rows of all edits that move nothing, with references predicted together."""
    windows = windows_of(model.geometry, num_windows=num_windows)
    references = trunk.references([frame_of(window, FORWARD) for window in windows], reverse=False)
    return [
        Row(reference, lay(window, edit, FORWARD))
        for window, reference in zip(windows, references, strict=True)
        for edit in window.edits
        if len(edit.inserted) == edit.removed_bp
    ]


@pytest.mark.parametrize("values_at_once", [1, 1 << 20])
@pytest.mark.parametrize("name", ["basenji2", "bpnet", "chrombpnet", "basenji2018"])
@torch.no_grad()
def test_what_changes_is_followed_in_pieces_of_any_size(monkeypatch, name, values_at_once):
    monkeypatch.setattr(trunks, "VALUES_AT_ONCE_CPU", values_at_once)
    monkeypatch.setattr(trunks.narrow, "VALUES_AT_ONCE", values_at_once)
    monkeypatch.setattr(trunks, "MOST_NARROW", 1.0)  # in so short windows, most of every change reaches most bins
    model = model_of(name)
    trunk = make_trunk(model)
    rows = substitutions(model, trunk)
    assert all(map(trunk.is_narrow, rows))
    num_bins = model.geometry.num_bins
    found = trunk.alternates(rows, Bins([0] * len(rows), num_bins), reverse=False)
    some = Bins([row % (num_bins - 5) for row in range(len(rows))], 5)
    part = trunk.alternates(rows, some, reverse=False)
    for row, each, cut, start in zip(rows, found, part, some.starts, strict=True):
        expected = predict(model, row.alternate.codes, reverse=False)
        torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(cut, expected[start : start + 5], rtol=1e-9, atol=1e-12)


def test_the_trunk_is_the_one_that_makes_the_least_of_the_work():
    assert isinstance(make_trunk(model_of("enformer")), PatchTrunk)
    assert isinstance(make_trunk(model_of("kmer_ridge")), WholeTrunk)
    model = model_of("basenji2")
    unknown = copy.deepcopy(model.network)
    unknown.local.append(nn.LogSoftmax(dim=2))
    assert isinstance(make_trunk(model._replace(network=unknown)), WholeTrunk)


def test_only_what_reaches_few_bins_is_narrow(monkeypatch):
    model = model_of("basenji2")
    trunk = make_trunk(model)
    rows = substitutions(model, trunk, num_windows=1)
    assert all(map(trunk.is_narrow, rows))
    monkeypatch.setattr(trunks, "MOST_NARROW", 0.01)
    assert not any(map(make_trunk(model).is_narrow, rows))
    attentive = model_of("enformer")  # whose context sees everything
    trunk = make_trunk(attentive)
    assert not any(map(trunk.is_narrow, substitutions(attentive, trunk, num_windows=1)))
    (window,) = windows_of(model.geometry, num_windows=1)
    trunk = make_trunk(model)
    moving = [edit for edit in window.edits if len(edit.inserted) != edit.removed_bp]
    assert not any(trunk.is_narrow(Row(rows[0].reference, lay(window, edit, FORWARD))) for edit in moving)


@pytest.mark.parametrize(("device", "window_bp", "rows"), [("cpu", 2000, 4), ("cuda", 2000, 32), ("cuda", 131_072, 2)])
def test_references_are_as_many_as_a_forward_reads(device, window_bp, rows):
    assert reference_rows(32, window_bp, torch.device(device)) == rows
    assert reference_rows(1, window_bp, torch.device(device)) == 1
    assert reference_rows(32, 1 << 20, torch.device(device)) == 1


def test_the_rest_of_a_compiled_shape_is_no_reference(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)  # only the shapes are asked about
    model = model_of("bpnet")
    readout = Readout(model, None, both=False)
    trunk = PatchTrunk(model.network, readout, device=torch.device("cpu"), precision="float32", compiled_rows=(5, 6))
    (window,) = windows_of(model.geometry, num_windows=1)
    with torch.no_grad():
        (reference,) = trunk.references([frame_of(window, FORWARD)], reverse=False)
    expected = predict(model, frame_of(window, FORWARD).window(), reverse=False)
    np.testing.assert_allclose(reference.predictions.numpy(), expected.numpy(), rtol=1e-9)


def test_cuda_graphs_are_asked_for_and_what_they_return_is_copied(monkeypatch):
    modes, memory = [], {}

    def as_a_graph(run, *, mode=None, **_):
        """Stand in for a graph: outputs come in the same memory every time."""
        modes.append(mode)

        def replay(*inputs):
            outputs = run(*inputs)
            several = outputs if isinstance(outputs, tuple) else (outputs,)
            places = memory.setdefault((run, several[0].shape), [torch.empty_like(each) for each in several])
            kept = [place.copy_(each) for place, each in zip(places, several, strict=True)]
            return type(outputs)(kept) if type(outputs) is tuple else kept[0]

        return replay

    monkeypatch.setattr(torch, "compile", as_a_graph)
    model = model_of("basenji2")
    how = {"device": torch.device("cpu"), "precision": "float32", "compiled_rows": (2, 6)}
    for cuda_graphs, mode in ((False, None), (True, "reduce-overhead")):
        trunk = trunk_of(model.network, Readout(model, None, both=False), **how, cuda_graphs=cuda_graphs)
        assert modes.pop() == mode
        codes = torch.randint(4, (2, 2, model.geometry.window_bp), dtype=torch.uint8)
        with torch.no_grad():
            (first,), (second,) = (trunk.embed(each) for each in codes)
            assert torch.equal(first, second) == (not cuda_graphs)
            assert torch.equal(second, model.network.embed(codes[1]))
