"""Online defenses in existing trainers of transformers or TRL, attached by one call."""

from holdfast.integrations.drop_in import constrain
from holdfast.integrations.live import Constrained
from holdfast.integrations.refusals import defense_context

__all__ = ["Constrained", "constrain", "defense_context"]
