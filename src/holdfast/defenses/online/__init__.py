"""Online defenses: each a frozen dataclass of settings that turns a `Plan` into a constrained one."""

from holdfast.tables import Row

GROUP = "holdfast.defenses.online"
ONLINE = {
    "refusal_loss": Row(
        "holdfast.defenses.online.refusal_loss:RefusalLoss", "cross entropy of refusals added to the loss"
    ),
}
