"""A cache that was allocated once, and which caches fit into it."""

from types import SimpleNamespace

import pytest
import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from holdfast.network.fixed_cache import FixedStore, windows_of


def test_a_view_has_the_size_and_place_that_masks_are_made_for():
    read = SimpleNamespace(keys=torch.ones(2, 3, 4, 8), values=torch.ones(2, 3, 4, 8))
    store = FixedStore([read], rows=6, columns=9, column=torch.tensor([4]))
    store.fill([read], length=4)
    (layer,) = store.view(2, 7).layers
    assert layer.get_mask_sizes(1) == (7, 0)
    assert (layer.get_max_length(), int(layer.get_seq_length())) == (7, 4)
    token = torch.full((2, 3, 1, 8), 5.0)
    keys, values = layer.update(token, token)
    assert keys.shape == values.shape == (2, 3, 7, 8)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 1, 5, 0, 0]


def test_a_cache_of_other_layers_or_of_several_windows_is_refused_by_what_it_has():
    full, four, nine = DynamicLayer(), *(DynamicSlidingWindowLayer(sliding_window=size) for size in (4, 9))
    assert windows_of(SimpleNamespace(layers=[full, four, four])) == [None, 4, 4]
    with pytest.raises(ValueError, match="sliding windows of different sizes"):
        windows_of(SimpleNamespace(layers=[four, full, nine]))
    with pytest.raises(ValueError, match="a layer's cache is a SimpleNamespace"):
        windows_of(SimpleNamespace(layers=[SimpleNamespace()]))
