"""Keys and values of the tokens so far, kept where there is room for those to come.

Shapes: B rows, H heads, L positions so far, N more positions at most, K width of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """Writes a token's keys and values behind the others'. `DynamicLayer` copies all of them for every new token.

    Rows may leave it; it cannot be cropped nor reordered."""

    def __init__(self, num_more: int) -> None:
        super().__init__()
        self._num_more = num_more

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if not start:
            self.lazy_initialization(key_states, value_states)
            self._room = [states.new_empty(_longer(states, self._num_more)) for states in (key_states, value_states)]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        if not length:
            return  # a layer that reads another one's
        self._room = [room[indices] for room in self._room]
        self.keys, self.values = (room[:, :, :length] for room in self._room)


def _longer(states: Tensor, num_more: int) -> tuple[int, ...]:
    batch, heads, length, width = states.shape
    return batch, heads, length + num_more, width


def cache_with_room(config: Any, num_more: int) -> DynamicCache:
    """As the language model of this `config` would make it, with room for `num_more` tokens after the first ones.

    Layers that see a window only stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(num_more) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
