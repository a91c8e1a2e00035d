"""Keys and values of rows and blocks that have lengths of their own."""

import pytest
import torch

from adaptive_inference.decoders.cache import RaggedCache

CPU = (torch.device("cpu"), torch.float32)
HEADS = 3


def filled(rows=3, blocks=2, tokens=4, **options):
    cache = RaggedCache(rows, blocks, 1, *CPU, **options)
    for block in range(blocks):
        append(cache, block, tokens)
    return cache


def append(cache, block, tokens, value=None):
    step = cache.open(block + 1, block + 1, tokens)
    rows = len(step.before)
    shape = (rows, HEADS, tokens, 2)
    states = torch.rand(shape) if value is None else torch.full(shape, float(value))
    return cache.update(states, -states, block)


def test_rows_and_blocks_have_lengths_of_their_own():
    cache = filled()
    with cache.rows([2, 0]):
        append(cache, 1, 2)
        assert cache.lengths(2) == [6, 6]
    assert (cache.lengths(1), cache.lengths(2)) == ([4, 4, 4], [6, 4, 6])
    assert (cache.get_seq_length(0), cache.get_seq_length(1)) == (4, 6)


def test_a_pass_through_blocks_of_unequal_lengths_is_refused():
    cache = filled()
    append(cache, 0, 1)
    with pytest.raises(ValueError, match="up to date first"):
        cache.open(1, 2, 1)
    with cache.rows([1]), pytest.raises(ValueError, match=r"hold \[5\] and \[4\]"):
        cache.open(1, 2, 1)


def test_a_forward_of_the_stock_model_cannot_write_here():
    cache = RaggedCache(1, 1, 4, *CPU)
    with pytest.raises(ValueError, match="no step is open"):
        cache.update(torch.rand(1, HEADS, 1, 2), torch.rand(1, HEADS, 1, 2), 0)


def test_crop_cuts_only_what_is_longer_and_what_follows_is_written_over_it():
    cache = filled(tokens=3)
    append(cache, 0, 4)
    cache.crop([0, 2], [5, 2])
    assert (cache.lengths(1), cache.lengths(2)) == ([5, 7, 2], [3, 3, 2])
    keys, values = append(cache, 0, 1, value=9)
    for row, column in enumerate([5, 7, 2]):
        assert (keys[row, :, column] == 9).all()
        assert (values[row, :, column] == -9).all()
    cache.crop(None, 1)
    assert (cache.lengths(1), cache.lengths(2)) == ([1, 1, 1], [1, 1, 1])


def test_finished_rows_take_their_states_padding_and_place_with_them():
    cache = filled(padding=[2, 0, 1])
    with cache.rows([1]):
        append(cache, 0, 1, value=7)
    before = cache.states(1)[0].clone()
    cache.keep([2, 1])
    assert (cache.count, cache.padding, cache.lengths(1)) == (2, [1, 0], [4, 5])
    torch.testing.assert_close(cache.states(1)[0], before[[2, 1]])
    cache.keep([1])
    assert (cache.padding_B, cache.lengths(1)) == (None, [5])
    with cache.rows([]), pytest.raises(ValueError, match="all of them are at hand"):
        cache.keep([0])


def test_positions_count_from_the_first_token_that_is_no_padding():
    cache = filled(padding=[2, 0, 1])
    assert cache.positions(1, 2).tolist() == [[2, 3], [4, 5], [3, 4]]
    empty = RaggedCache(2, 1, 4, *CPU, padding=[3, 0])
    assert empty.positions(1, 4).tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]
    plain = filled(padding=[0, 0, 0])
    assert plain.positions(1, 1).tolist() == [[4]]
    plain.crop([1], 2)
    assert plain.positions(1, 2).tolist() == [[4, 5], [2, 3], [4, 5]]
    with plain.rows([1]):
        assert plain.positions(1, 1).tolist() == [[2]]


def test_the_buffers_double_and_keep_what_they_hold():
    cache = RaggedCache(1, 1, 2, *CPU)
    capacities = []
    for token in range(9):
        append(cache, 0, 1, value=token)
        capacities.append(cache.capacity)
    assert capacities == [2, 2, 4, 4, 8, 8, 8, 8, 16]
    assert cache.states(1)[0][0, 0, :, 0].tolist() == list(range(9))


def test_all_rows_in_order_are_no_gathering():
    cache = filled()
    with cache.rows([0, 1, 2]):
        assert cache.index_R is None
    with cache.rows([1, 0, 2]):
        assert cache.index_R.tolist() == [1, 0, 2]
    assert cache.at_hand is None
