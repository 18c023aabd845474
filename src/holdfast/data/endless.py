"""An endless stream of batches, each determined by the seed and the step alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from holdfast.records import Example


def endless(examples: Sequence[Example], batch_size: int, *, seed: int) -> Callable[[int], list[Example]]:
    """`draw(step)` gives the batch of that step: every example once per epoch, each epoch in a new order.

    Results do not depend on earlier calls, so a resumed run gets the same batches as an uninterrupted one.
    """
    orders: dict[int, list[int]] = {}

    def order(epoch: int) -> list[int]:
        if epoch not in orders:
            orders.clear()
            orders[epoch] = random.Random(f"{seed} {epoch}").sample(range(len(examples)), len(examples))
        return orders[epoch]

    def draw(step: int) -> list[Example]:
        places = range(step * batch_size, (step + 1) * batch_size)
        return [examples[order(place // len(examples))[place % len(examples)]] for place in places]

    return draw
