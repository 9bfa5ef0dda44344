import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cisray.models import attention as attention_module
from cisray.models.attention import (
    RelativeAttention,
    Transformer,
    TransformerBlock,
    attend_in_blocks,
    relative_logits,
    two_sided,
)


def build_attention(*, channels=12, heads=3, key_size=5, num_features=4, dropout=0.0, position_dropout=0.0):
    """Build with an output layer that is not zero."""
    torch.manual_seed(0)
    attention = RelativeAttention(
        channels,
        heads=heads,
        key_size=key_size,
        num_features=num_features,
        dropout=dropout,
        position_dropout=position_dropout,
    )
    torch.nn.init.normal_(attention.out.weight)
    torch.nn.init.normal_(attention.out.bias)
    return attention.double().eval()


def features_of(num_bins):
    """Return two features of the distances 0 to N - 1."""
    distances = torch.arange(num_bins, dtype=torch.float64)
    return torch.stack([torch.cos(distances), 1 / (1 + distances)], dim=1)


@given(num_bins=st.integers(1, 9), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_relative_logits_are_the_products_of_query_and_distance(num_bins, seed):
    random = np.random.default_rng(seed)
    queries, keys = random.normal(size=(2, 3, num_bins, 4)), random.normal(size=(3, 2 * num_bins + 1, 4))
    found = relative_logits(torch.from_numpy(queries), torch.from_numpy(keys)).numpy()
    assert found.shape == (2, 3, num_bins, num_bins)
    for i in range(num_bins):
        for j in range(num_bins):
            row = num_bins + j - i  # of distance j - i, the first row being that of -N
            expected = np.einsum("bhk,hk->bh", queries[:, :, i], keys[:, row])
            np.testing.assert_allclose(found[:, :, i, j], expected, atol=1e-12)


@pytest.mark.parametrize("values", [1, 2 * 3 * 50 * 17, 2 * 3 * 50 * 49, 1 << 20])
def test_queries_in_blocks_attend_as_all_at_once(monkeypatch, values):
    monkeypatch.setattr(attention_module, "BLOCK_VALUES", values)
    random = np.random.default_rng(0)
    content, position, keys = (torch.from_numpy(random.normal(size=(2, 3, 50, 8))) for _ in range(3))
    read = torch.from_numpy(random.normal(size=(2, 3, 50, 5)))
    relative_keys = torch.from_numpy(random.normal(size=(3, 101, 8)))
    mask = relative_logits(position, relative_keys)
    expected = F.scaled_dot_product_attention(content, keys, read, attn_mask=mask, scale=1.0)
    found = attend_in_blocks(content, position, keys, read, relative_keys)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_features_of_both_sides_have_the_sign_of_the_distance():
    by_distance = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert two_sided(by_distance).tolist() == [
        [0, 0, 0, 0],
        [5, 6, -5, -6],
        [3, 4, -3, -4],
        [1, 2, 0, 0],
        [3, 4, 3, 4],
        [5, 6, 5, 6],
        [0, 0, 0, 0],
    ]


def attend_by_hand(attention, hidden):
    """Compute attention position by position, in NumPy, from its definition."""
    weights = {name: weight.detach().numpy() for name, weight in attention.state_dict().items()}
    heads, size = attention.heads, attention.key_size
    num_bins, channels = hidden.shape
    each = channels // heads
    by_distance = features_of(num_bins).numpy()
    mixed = np.zeros((num_bins, channels))
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        query, key = hidden @ weights["query.weight"][rows].T, hidden @ weights["key.weight"][rows].T
        value = hidden @ weights["value.weight"][head * each : (head + 1) * each].T
        for i in range(num_bins):
            logits = []
            for j in range(num_bins):
                feature = by_distance[abs(j - i)]
                feature = np.concatenate([feature, np.sign(j - i) * feature])
                relative = weights["relative_key.weight"][rows] @ feature
                scaled = query[i] / math.sqrt(size)
                logits.append(
                    (scaled + weights["content_bias"][head, 0]) @ key[j]
                    + (scaled + weights["position_bias"][head, 0]) @ relative
                )
            shares = np.exp(logits - np.max(logits))
            mixed[i, head * each : (head + 1) * each] = shares / shares.sum() @ value
    return mixed @ weights["out.weight"].T + weights["out.bias"]


def test_attention_is_its_definition():
    attention = build_attention()
    hidden = torch.randn(2, 7, 12, dtype=torch.float64)
    found = attention(hidden, two_sided(features_of(7))).detach().numpy()
    for window in range(2):
        np.testing.assert_allclose(found[window], attend_by_hand(attention, hidden[window].numpy()), atol=1e-12)


def test_dropout_acts_in_training_only():
    attention = build_attention(dropout=0.5, position_dropout=0.5)
    hidden, features = torch.randn(1, 7, 12, dtype=torch.float64), two_sided(features_of(7))
    assert torch.equal(attention(hidden, features), attention(hidden, features))
    attention.train()
    assert not torch.equal(attention(hidden, features), attention(hidden, features))


def build_transformer(num_blocks=2):
    blocks = [TransformerBlock(build_attention().float(), 12, dropout=0.0, norm_eps=1e-5) for _ in range(num_blocks)]
    return Transformer(blocks, features_of).eval()


def test_a_transformer_starts_as_its_perceptrons_and_every_bin_then_sees_every_other():
    transformer = build_transformer()
    hidden = torch.randn(1, 12, 9)
    changed = hidden.clone()
    changed[0, 3, 4] += 1
    moved = (transformer(hidden) != transformer(changed)).any(dim=1)[0]
    assert moved.all()
    for block in transformer.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    moved = (transformer(hidden) != transformer(changed)).any(dim=1)[0]
    assert moved.nonzero().tolist() == [[4]]


def test_one_table_of_features_serves_all_batches_of_a_length_and_precision():
    asked = []

    def counted(num_bins):
        asked.append(num_bins)
        return features_of(num_bins)

    transformer = build_transformer()
    transformer.features_of = counted
    for num_bins in (9, 9, 9, 5, 5):
        transformer(torch.randn(2, 12, num_bins))
    assert asked == [9, 5]
    double = copy.deepcopy(transformer).double()
    hidden = torch.randn(1, 12, 5, dtype=torch.float64)
    double.features_of = features_of
    fresh = copy.deepcopy(double)
    fresh._features = None
    assert torch.equal(double(hidden), fresh(hidden))  # not the float32 table, widened
    assert not [name for name in transformer.state_dict() if "feature" in name]


def test_training_goes_on_after_an_inference_of_the_same_length():
    transformer = build_transformer()
    hidden = torch.randn(2, 12, 6)
    with torch.inference_mode():
        expected = transformer(hidden)
    found = transformer(hidden)
    torch.testing.assert_close(found, expected.clone())
    found.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in transformer.parameters())


def test_attention_under_autocast_stays_within_the_digits_of_bfloat16():
    attention = build_attention(channels=64, heads=4, key_size=16)
    features = two_sided(features_of(96))
    hidden = torch.nn.functional.layer_norm(torch.randn(1, 96, 64, dtype=torch.float64), (64,))
    exact = attention(hidden, features).detach()
    single = attention.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = single(hidden.float(), features.float())
    assert half.dtype == torch.bfloat16

    def error(found):
        found = found.detach()
        return float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    assert error(single(hidden.float(), features.float())) < 1e-5
    assert error(half) < 0.03


def test_a_transformer_compiles_whole():
    transformer = build_transformer(1)
    hidden = torch.randn(1, 12, 6)
    compiled = torch.compile(copy.deepcopy(transformer), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(hidden), transformer(hidden))


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_initial_weights_are_the_published_ones(heads):
    torch.manual_seed(0)
    attention = RelativeAttention(240, heads=heads, key_size=40, num_features=60, dropout=0.0, position_dropout=0.0)
    for layer, inputs in ((attention.query, 240), (attention.value, 240), (attention.relative_key, 60)):
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / inputs), rel=0.05)
    assert float(attention.content_bias.detach().std()) == pytest.approx(math.sqrt(2 / heads), rel=0.25)
    assert not attention.out.weight.any()
    assert not attention.out.bias.any()


def test_a_transformer_without_blocks_changes_nothing():
    hidden = torch.rand(2, 4, 8)
    assert torch.equal(Transformer([], lambda num_bins: torch.zeros(num_bins, 2))(hidden), hidden)
