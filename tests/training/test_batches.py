import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cisray.genome.sequence import reverse_complement as reverse_complement_in_numpy
from cisray.training.batches import Batch, augment, cut_windows, one_ahead, reverse_complement, swap_strands

SWAP = torch.tensor([1, 0, 2])


def random_codes(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 5, shape, np.uint8))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_reverse_complement_by_eye():
    codes = torch.tensor([[0, 0, 1, 4, 2]], dtype=torch.uint8)  # AACNG
    assert reverse_complement(codes).tolist() == [[1, 4, 2, 3, 3]]  # CNGTT
    assert reverse_complement(codes).dtype == torch.uint8


def test_reverse_complement_is_that_of_the_genome_room_and_its_own_inverse():
    codes = random_codes(5, 31)
    assert np.array_equal(reverse_complement(codes), reverse_complement_in_numpy(codes.numpy()))
    assert torch.equal(reverse_complement(reverse_complement(codes)), codes)


def test_swap_strands_turns_bins_and_trades_partners():
    values = torch.tensor([[[1, 10, 100], [2, 20, 200]]])
    assert swap_strands(values, SWAP).tolist() == [[[20, 2, 200], [10, 1, 100]]]
    assert torch.equal(swap_strands(swap_strands(values, SWAP), SWAP), values)


def test_a_shift_takes_its_bases_out_of_the_margin():
    codes = torch.arange(10, dtype=torch.uint8).repeat(4, 1)
    assert cut_windows(codes, margin_bp=3)[0].tolist() == [3, 4, 5, 6]
    shifted = cut_windows(codes, margin_bp=3, shifts=torch.tensor([-3, 0, 1, 3]))
    assert shifted.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert torch.equal(cut_windows(codes, margin_bp=0), codes)


@given(st.integers(0, 1000), st.integers(0, 4))
def test_every_example_is_one_of_the_readings_that_are_allowed(seed, shift_bp):
    codes, targets = random_codes(6, 24, seed=seed), torch.rand(6, 3, 3)
    targets[0, 1, 2] = torch.nan
    read, told = augment(codes, targets, margin_bp=4, shift_bp=shift_bp, swap=SWAP, random=generator(seed))
    assert read.shape == (6, 16)
    for i in range(6):
        shifted = [codes[i : i + 1, 4 + shift : 20 + shift] for shift in range(-shift_bp, shift_bp + 1)]
        forward = any(torch.equal(window[0], read[i]) for window in shifted)
        if forward and torch.equal(told[i].nan_to_num(-1), targets[i].nan_to_num(-1)):
            continue
        assert any(torch.equal(reverse_complement(window)[0], read[i]) for window in shifted)
        turned = swap_strands(targets[i : i + 1], SWAP)[0]
        assert torch.equal(told[i].nan_to_num(-1), turned.nan_to_num(-1))


def test_all_shifts_and_both_strands_are_drawn_about_equally():
    codes = torch.zeros(3000, 14, dtype=torch.uint8)
    codes[:, 7] = 1  # one C, whose place and letter tell shift and strand
    read, _ = augment(
        codes, torch.zeros(3000, 1, 1), margin_bp=2, shift_bp=2, swap=torch.tensor([0]), random=generator()
    )
    turned = (read == 3).any(dim=1)  # all A has become T
    assert 0.45 < turned.double().mean() < 0.55
    places = (read[~turned] == 1).nonzero()[:, 1]
    counts = torch.bincount(places)
    assert counts.nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]
    assert counts[3:].min() > 0.15 * len(places)


def test_nothing_is_changed_where_nothing_is_asked_for():
    codes, targets = random_codes(6, 24), torch.rand(6, 3, 3)
    read, told = augment(codes, targets, margin_bp=4, shift_bp=0, swap=None, random=generator())
    assert torch.equal(read, codes[:, 4:-4])
    assert torch.equal(told, targets)


def test_equal_seeds_draw_equal_readings():
    codes, targets = random_codes(20, 24), torch.rand(20, 3, 3)
    first, again, other = (
        augment(codes, targets, margin_bp=4, shift_bp=4, swap=SWAP, random=generator(seed))[0] for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def drawn_batches(number):
    random = generator()
    for size in range(1, number + 1):
        yield Batch(random_codes(size, 12, seed=size), torch.rand(size, 3, 2, generator=random), f"head{size}")


def test_batches_come_through_in_order():
    for batch, same in zip(one_ahead(drawn_batches(5), torch.device("cpu")), drawn_batches(5), strict=True):
        assert torch.equal(batch.codes, same.codes)
        assert torch.equal(batch.targets, same.targets)
        assert batch.head == same.head
    assert list(one_ahead(iter(()), torch.device("cpu"))) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_the_next_batch_before_the_one_before_it_is_used():
    drawn, device = [], torch.device("cuda")

    def noted():
        for batch in drawn_batches(20):
            drawn.append(len(batch[0]))
            yield batch

    matrix = torch.rand(2000, 2000, device=device)
    for number, (batch, same) in enumerate(zip(one_ahead(noted(), device), drawn_batches(20), strict=True), start=1):
        assert len(drawn) == min(20, number + 1)
        for _ in range(20):
            matrix = (matrix @ matrix).clamp(max=1)  # the device is still at work when the next one comes
        assert batch.codes.is_cuda
        assert torch.equal(batch.codes.cpu(), same.codes)
        assert torch.equal(batch.targets.cpu(), same.targets)
    assert list(one_ahead(iter(()), device)) == []
