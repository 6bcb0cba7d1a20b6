"""A cache with room holds what the usual one holds."""

import torch
from transformers import GPT2Config, MistralConfig
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from training.generation_cache import RoomyLayer, cache_with_room

TWO_LAYERS = GPT2Config(n_layer=2, n_embd=8, n_head=2)


def test_it_holds_the_keys_and_values_of_the_usual_cache_while_rows_leave() -> None:
    torch.manual_seed(0)
    usual, ours = DynamicCache(config=TWO_LAYERS), cache_with_room(TWO_LAYERS, num_more=3)
    rows = torch.arange(5)
    for lengths, kept in ((6, [0, 1, 3, 4]), (1, [0, 1, 2, 3]), (1, [1, 3]), (1, [1])):
        for layer in range(2):
            states = torch.randn(2, len(rows), 2, lengths, 4)
            for found, expected in zip(ours.update(*states, layer), usual.update(*states, layer), strict=True):
                assert torch.equal(found, expected)
            assert ours.get_seq_length(layer) == usual.get_seq_length(layer)
        rows = torch.tensor(kept)
        ours.batch_select_indices(rows)
        usual.batch_select_indices(rows)


def test_no_token_is_copied_when_one_is_added() -> None:
    cache = cache_with_room(TWO_LAYERS, num_more=1)
    first, _ = cache.update(*torch.zeros(2, 1, 2, 6, 4), 0)
    second, _ = cache.update(*torch.ones(2, 1, 2, 1, 4), 0)
    assert second.data_ptr() == first.data_ptr()


def test_layers_that_see_a_window_keep_their_own_kind() -> None:
    config = MistralConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, sliding_window=4)
    (layer,) = cache_with_room(config, num_more=3).layers
    assert type(layer) is DynamicSlidingWindowLayer
    assert all(type(layer) is RoomyLayer for layer in cache_with_room(TWO_LAYERS, num_more=3).layers)
