"""Defenses in trainers that Holdfast did not make: one call on a live trainer of transformers or TRL."""

from holdfast.integrations.drop_in import constrain
from holdfast.integrations.live import Constrained
from holdfast.integrations.refusals import defense_context

__all__ = ["Constrained", "constrain", "defense_context"]
