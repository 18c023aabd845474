"""Online defenses: each a frozen dataclass of settings that turns a `Plan` into a constrained one.

Their protocol is `holdfast.training.contracts.OnlineDefense`.
"""

from holdfast.methods.tables import Row, Table
from holdfast.training.contracts import OnlineDefense, check_of

ONLINE = Table(
    "defense",
    "holdfast.defenses.online",
    {
        "refusal_loss": Row(
            "holdfast.defenses.online.refusal_loss:RefusalLoss",
            "cross entropy of refusals added to the loss (the default alpha 100 destroys helpfulness here: try 1)",
        ),
        "lisa": Row(
            "holdfast.defenses.online.lisa:Lisa",
            "a penalty on the drift of weights; in `bistate` mode alternating with steps on refusals",
        ),
        "vaccine": Row(
            "holdfast.defenses.online.vaccine:Vaccine",
            "training under worst-case small perturbations of attention outputs",
        ),
        "constrained_sft": Row(
            "holdfast.defenses.online.constrained_sft:ConstrainedSFT", "SFT that moves an answer's first tokens least"
        ),
        "kl_anchor": Row(
            "holdfast.defenses.online.kl_anchor:KLAnchor", "KL to the model at the start added to the loss"
        ),
        "l2_anchor": Row(
            "holdfast.defenses.online.weight_anchors:L2Anchor", "squared distance of the weights to their start"
        ),
        "ewc": Row(
            "holdfast.defenses.online.weight_anchors:EWC",
            "that distance, weighted by the importance of each weight for refusals",
        ),
        "safe_rlhf": Row(
            "holdfast.defenses.online.safe_rlhf:SafeRLHF",
            "a price on harm in the advantages of RL, learnt by dual ascent",
        ),
        "security_vectors": Row(
            "holdfast.defenses.online.security_vectors:SecurityVectors",
            "a harmful vector that is active during training and removed afterwards",
        ),
    },
    check_of(OnlineDefense),
)
