"""The loss of representation removal on one batch, term by term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.defenses.representation.removal import Removal
from holdfast.distributions import Distributions, Logits
from holdfast.losses import representation as losses
from holdfast.losses.representation import Targets
from holdfast.network.anatomy import Anatomy, anatomy, outputs_of, residual_stream
from holdfast.network.forward import chosen_distributions
from holdfast.network.heads import projected, without_logits
from holdfast.tensors import Batch
from holdfast.training.plan import Metrics, part

Recorder = Callable[[Anatomy], AbstractContextManager[list[Tensor]]]
Original = Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The family's objective.

    `original` is a context that gives the model before the defense, `vectors` (number of domains, H) are the fixed
    targets. Terms are means over a micro-batch, and those of an optimizer step are averaged by its rows: distances
    between batches do not add up over parts of one.
    """

    removal: Removal
    original: Original | None = None
    vectors: Tensor | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss, and its terms without their weights."""
        terms = {**self._of_pairs(network, batch), **self._of_benign(network, part(batch, "retain"))}
        weights = self._weights(float(batch["progress"]))
        share = len(batch["input_ids"]) / float(batch["num_sequences"])
        loss = share * torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        metrics = {name: share * float(term.detach()) for name, term in terms.items()}
        return loss, {"loss": float(loss.detach()), **metrics}

    def _weights(self, progress: float) -> Mapping[str, float]:
        removal, passed = self.removal, progress * (self.removal.handover or 0.0)
        return {
            "removal": removal.removal_weight * (1 - passed),
            "refusal": removal.refusal_weight,
            "ascent": -removal.ascent_weight,
            "retain": removal.retain_weight * (1.0 if removal.handover is None else passed),
            "benign": removal.benign_weight,
        }

    def _of_pairs(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        removal, parts, count = self.removal, anatomy(network), int(batch["harmful"].sum())
        with ExitStack() as stack:
            states = stack.enter_context(self._sites(parts))
            stream = stack.enter_context(residual_stream(parts)) if removal.ascent_weight else []
            harmful, refused = (self._targets(batch, rows) for rows in (slice(count), slice(count, None)))
            predicted = chosen_distributions(network, batch, torch.cat([harmful.places, refused.places]))
        split, terms = len(harmful.tokens), {}
        if removal.refusal_weight:
            terms["refusal"] = losses.predicted_loss(predicted.rows(slice(split, None)), refused)
        if removal.removal_weight:
            terms["removal"] = self._removal([state[:count] for state in states], batch)
        if removal.ascent_weight:
            terms["ascent"] = self._ascent(network, predicted.rows(slice(split)), stream, harmful)
        return terms

    def _removal(self, states: Sequence[Tensor], batch: Batch) -> Tensor:
        removal, count = self.removal, len(states[0])
        away = removal.projection == "original"
        mask = batch["read"][:count]
        distances = [
            losses.removal(state, target, mask, distance=removal.distance, away=away)
            for state, target in zip(states, self._projected(states, batch), strict=True)
        ]
        return torch.stack(distances).mean()

    def _projected(self, states: Sequence[Tensor], batch: Batch) -> list[Tensor]:
        """A target for each state; with `original`, one to move away from."""
        removal, count, device = self.removal, len(states[0]), states[0].device
        if removal.projection == "fixed":
            if self.vectors is None:
                raise ValueError("the fixed projection needs vectors")
            vectors = self.vectors.to(device)[batch["topic"]][:, None]
            return [vectors.expand_as(state) for state in states]
        generator = torch.Generator(device).manual_seed(int(batch["noise_seed"]))
        if removal.projection == "noise":
            return [torch.randn(state.shape, device=device, generator=generator) for state in states]
        pairs: Batch = {key: batch[key][:count] for key in ("input_ids", "attention_mask") if key in batch}
        originals = self._originals(pairs, self._sites)
        return [_jittered(state.float(), removal.jitter, generator) for state in originals]

    def _ascent(self, network: nn.Module, own: Distributions, stream: Sequence[Tensor], wanted: Targets) -> Tensor:
        """The layer-wise ascent: the loss of harmful answers as predicted from every layer's states by the lens.

        The last state is read as the model reads it, `own`; with `quirks` also a second time with the final norm
        applied again.
        """
        parts, count = anatomy(network), len(wanted.chosen)
        read = stream if self.removal.quirks else stream[:-1]
        # The logits of all layers would be in memory at once.
        projects = without_logits(network, len(wanted.tokens) * (len(read) + 1))

        def lens(state: Tensor) -> Distributions:
            normed = parts.normed(wanted.before(state[:count]))
            return projected(network, normed) if projects else Logits(parts.head(normed))

        lenses = [losses.predicted_loss(lens(state), wanted) for state in read]
        return losses.ascent([losses.predicted_loss(own, wanted), *lenses], len(parts.layers))

    def _targets(self, batch: Batch, rows: slice) -> Targets:
        quirks = self.removal.quirks
        return losses.targets(
            batch["input_ids"][rows], batch["loss_mask"][rows], drop_token_zero=quirks, zero_unmasked_logits=quirks
        )

    def _of_benign(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        removal, terms = self.removal, {}
        if not batch:
            return {}
        recorder = residual_stream if removal.retain == "drift" else self._sites
        with recorder(anatomy(network)) as states:
            wanted = losses.targets(batch["input_ids"], batch["loss_mask"])
            predicted = chosen_distributions(network, batch, wanted.places)
        if removal.retain_weight:
            terms["retain"] = self._retain(states, self._originals(batch, recorder), batch["read"])
        if removal.benign_weight:
            terms["benign"] = losses.predicted_loss(predicted, wanted)
        return terms

    def _retain(self, states: Sequence[Tensor], originals: Sequence[Tensor], mask: Tensor) -> Tensor:
        if self.removal.retain == "drift":
            return losses.drift(states, originals, mask, count_padding=self.removal.count_padding)
        return torch.stack(
            [losses.mse(state, other, mask, away=False) for state, other in zip(states, originals, strict=True)]
        ).mean()

    def _sites(self, parts: Anatomy) -> AbstractContextManager[list[Tensor]]:
        return outputs_of(self.removal.modules(parts))

    def _originals(self, batch: Batch, recorder: Recorder) -> list[Tensor]:
        """States of the model before the defense on a batch, without dropout and gradients."""
        if self.original is None:
            raise ValueError("this member of the family needs the original model")
        with self.original() as network, _evaluating(network), torch.no_grad():
            with recorder(anatomy(network)) as states:
                chosen_distributions(network, batch, torch.zeros_like(batch["input_ids"], dtype=torch.bool))
            return list(states)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode within the context; an adapter's original is the network that is being trained."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _jittered(states: Tensor, size: float, generator: torch.Generator) -> Tensor:
    if not size:
        return states
    noise = torch.randn(states.shape, device=states.device, generator=generator)
    return states + size * states.norm(dim=-1, keepdim=True) / states.shape[-1] ** 0.5 * noise
