"""Settings: numbers out of their range, words that mean nothing, methods that do not go together."""

from __future__ import annotations

from typing import Any

from building import RUN, Case, of_small
from shelf import SFT, SMALL, changed

COUNT = "-1 0 .nan .inf true x [] 1.5"
COUNT_OR_NULL = "-1 0 .nan true x []"
FROM_ZERO = "-1 .nan .inf true x []"
WHOLE_FROM_ZERO = "-1 .nan true x [] 1.5"
SHARE = "-1 2 .nan .inf true x []"
FLAG = "x [] 3 .nan"
WORD = "wizard [] 3 true"

OPTIM = {
    "max_steps": COUNT,
    "learning_rate": FROM_ZERO,
    "per_device_train_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "adam_beta1": "-1 1 2 .nan true x",
    "adam_beta2": "-1 1 2 .nan true x",
    "adam_epsilon": "-1 .nan .inf true x",
    "weight_decay": FROM_ZERO,
    "max_grad_norm": FROM_ZERO,
    "warmup_steps": "-1 .nan true x []",
    "optim": WORD,
    "lr_scheduler_type": WORD,
    "bf16": FLAG,
    "gradient_checkpointing": FLAG,
    "max_activation_mb": "-1 0 .nan true x [] 1.5 100",
    "max_step": "10",
}
POLICY = {
    "group_size": COUNT,
    "temperature": "-1 0 .nan .inf true x",
    "top_p": "-1 0 2 .nan true x",
    "top_k": "-1 .nan true x",
    "max_new_tokens": COUNT_OR_NULL,
    "std_epsilon": "-1 .nan true x",
    "clip_low": "-1 .nan true x",
    "clip_high": "-1 .nan true x",
    "kl_coef": FROM_ZERO,
    "passes": COUNT_OR_NULL,
    "minibatches": COUNT_OR_NULL,
    "baseline": "wizard 3",
    "scale": "wizard 3",
    "ratio": "wizard",
    "reduction": "wizard",
    "kl_in": "wizard",
    "kl_estimator": "k9",
    "group_sise": "4",
}

# Where the values go, and which of them have to be refused, by key.
GRID: dict[str, dict[str, str]] = {
    "evaluation": {
        "every": COUNT,
        "num_prompts": COUNT,
        "max_new_tokens": COUNT,
        "batch_size": COUNT,
        "temperature": FROM_ZERO,
        "break_threshold": f"{SHARE} 1",
        "collapse_threshold": SHARE,
        "group_size": f"1 {WHOLE_FROM_ZERO}",
        "give_up_below": "x 3 [3] [[1]] [[-1,0.5]] [[5,.nan]] [[5,2]]",
        "stop_when_broken": FLAG,
        "kl_to_start": FLAG,
        "split": "train wizard 3 []",
        "num_prompt": "4",
    },
    "evaluation.metrics": {
        "worst_of": "x 3 [0] [-1] [1.5] [true] [4,4]",
        "worst_of_temperature": "-1 0 .nan .inf true x",
        "distinct": "x [0] [1,1]",
        "rouge": "3 [3] [nothing]",
        "pairs": FLAG,
        "two_lengths": FLAG,
        "perplexity": "x 3 []",
    },
    "data": {"train": ".nan .inf", "held_out": ".nan .inf []", "shares": "x 3 []"},
}

# Method by kind and name, and which values of its settings have to be refused.
ATTACKS: dict[str, dict[str, str]] = {
    "sft": {
        "flip_ratio": SHARE,
        "num_samples": COUNT_OR_NULL,
        "max_length": COUNT_OR_NULL,
        "sampling": "tail 3",
        "flip_how": "sideways 3",
        "task": "wizard 3",
        "adapter": "x 3",
        "lr": "1",
    },
    "dpo": {"beta": FROM_ZERO, "flip_ratio": SHARE, "num_samples": "0 -1", "max_length": "0 -1"},
    "grpo": {"num_prompts": COUNT_OR_NULL, "reward": "x 3", "policy": "x 3", "optim": "x 3"},
    "ablation": {
        "trials": "[] [2,1] 3 [0] [x] true",
        "depths": "[2] [0] [x] true",
        "form": "wizard [] 3 true",
        "rank": COUNT,
        "num_prompts": COUNT,
        "choice_prompts": COUNT,
        "own": FLAG,
    },
    "best_of_n": {
        "numbers": "[] [0] [-1] [true] x 3 [1.5]",
        "temperature": "-1 0 .nan true x",
        "top_p": "-1 0 2 .nan",
        "top_k": "-1 true",
        "max_new_tokens": "0 -1",
        "num_prompts": "0 -1 true",
        "batch_size": COUNT,
    },
}
ONLINE: dict[str, dict[str, str]] = {
    "refusal_loss": {
        "alpha": FROM_ZERO,
        "batch_size": COUNT,
        "max_length": "0 -1 true x",
        "recovery": "-1 .nan true x",
        "recovery_tokens": "0 -1 true",
        "form": "wizard 3",
        "alhpa": "1",
    },
    "lisa": {"proximal_weight": FROM_ZERO, "warmup_fraction": SHARE, "batch_size": "0 -1 true", "mode": "wizard"},
    "kl_anchor": {"coef": FROM_ZERO, "direction": "sideways"},
    "l2_anchor": {"coef": FROM_ZERO},
    "ewc": {"coef": "-1 .nan true", "num_samples": "0 -1 true"},
    "vaccine": {"perturbation_radius": FROM_ZERO},
    "security_vectors": {"strength": "-1 .nan true x", "num_samples": "0 -1", "inner_steps": "-1 true"},
}
OFFLINE: dict[str, dict[str, str]] = {
    "rmu": {
        "alpha": FROM_ZERO,
        "depth": SHARE,
        "vector_length": "-1 .nan x",
        "trained_layers": "0 -1 true",
        "form": "x",
    },
    "repnoise": {"noise_weight": FROM_ZERO, "ascent_weight": "-1 .nan", "benign_weight": "-1 .nan", "mode": "wizard"},
    "circuit_breakers": {"alpha": FROM_ZERO, "depths": "[] [2] [-1] x", "handover": "-1 2 .nan"},
    "gradient_penalty": {"penalty_weight": FROM_ZERO, "refusal_weight": "-1 .nan"},
    "tar": {"tasks": COUNT, "beta": "-1 .nan", "heldout_share": "-1 2 .nan", "tamper_weight": "-1 .nan"},
    "reward_neutralization": {
        "benign_share": SHARE,
        "full_length": "-1 true",
        "explain_weight": "-1 .nan",
        "stop_at": "2 .nan",
        "num_prompts": COUNT,
    },
    "token_buncher": {
        "noise": FROM_ZERO,
        "noise_entropy": FROM_ZERO,
        "warm_up": SHARE,
        "retain_weight": "-1 .nan",
        "mode": "wizard",
    },
    "vaccine_alignment": {"perturbation_radius": "-1 .nan", "benign_share": SHARE},
    "rounded": {"to": "q4_k int8 4 [] true"},
}
ADAPTIVE: dict[str, dict[str, str]] = {
    "benign_cover": {"share": SHARE},
    "entropy_bonus": {"coefficient": "-1 .nan .inf true x", "cap": "-1 .nan true", "form": "wizard"},
    "early_stop": {
        "patience": "-1 .nan true x []",
        "gain": ".nan -1",
        "smoothing": "-1 1 2 .nan",
        "every": "0 -1",
        "num_prompts": "0 -1",
    },
    "mix_weights": {"weight": SHARE},
    "reshape": {"norms": "0 -1 .nan"},
    "subtract_delta": {"scale": ".nan .inf true x"},
}

SEEDS = "-1 true x [] 1.5 .nan [0,0] [-1] [true] [x] 4294967296 18446744073709551616 [0,[1]] {a:1}"

CHOOSES = {"best_of_n": {"reward": {"judge": "keyword"}}}
REINFORCES = {"grpo": {"reward": {"judge": "keyword"}}}
SAFE = {"safe_rlhf": {"judge": "refusal", "threshold": 0.1}}

# Name, changes of the grid, what has to be said.
COMBINATIONS: list[tuple[str, dict[str, Any], str]] = [
    ("rewards-under-sft", {"defenses": [SAFE]}, "safe_rlhf.*sft"),
    ("answers-under-grpo", {"attacks": [REINFORCES], "defenses": ["constrained_sft"]}, "constrained_sft.*grpo"),
    ("online-without-attack", {"attacks": ["none"], "defenses": ["refusal_loss"]}, "refusal_loss"),
    ("online-under-best-of-n", {"attacks": [CHOOSES], "defenses": ["refusal_loss"]}, "refusal_loss.*best_of_n"),
    ("adaptive-round-best-of-n", {"attacks": [[CHOOSES, "benign_cover"]]}, "benign_cover.*best_of_n"),
    ("one-defense-twice", {"defenses": [["refusal_loss", "refusal_loss"]]}, "refusal_loss.*twice"),
    ("loss-replaced-second", {"defenses": [["refusal_loss", "constrained_sft"]]}, "constrained_sft"),
    ("entropy-of-sft", {"attacks": [[SFT, "entropy_bonus"]]}, "entropy_bonus.*sft"),
    ("adaptive-first", {"attacks": [["early_stop", SFT]]}, "early_stop"),
    ("adaptive-alone", {"attacks": ["early_stop"]}, "early_stop"),
    ("two-attacks-in-one", {"attacks": [[SFT, "dpo"]]}, "dpo"),
    ("attack-for-a-defense", {"defenses": ["sft"]}, "sft"),
    ("defense-for-an-attack", {"attacks": ["refusal_loss"]}, "refusal_loss"),
    ("unknown-attack", {"attacks": ["grop"]}, "did you mean 'grpo'"),
    ("unknown-defense", {"defenses": ["refusal_lost"]}, "did you mean 'refusal_loss'"),
    ("unknown-adaptive", {"attacks": [[SFT, "early_stopp"]]}, "did you mean 'early_stop'"),
    ("unknown-defense-in-a-stack", {"defenses": [["refusal_loss", "wizard"]]}, "wizard"),
    ("none-in-a-stack", {"defenses": [["none", "refusal_loss"]]}, "none"),
    (
        "nothing-left-after-misfits",
        {"misfits": "skip", "attacks": ["none"], "defenses": ["refusal_loss"]},
        "combination",
    ),
    ("unknown-copy", {"copies": ["q4_k"]}, "copies.*q4_k"),
    ("unknown-misfits", {"misfits": "ignore"}, "misfits"),
    ("unknown-preset", {"attacks": [{"dpo": {"preset": "wizard"}}]}, "preset.*wizard"),
    ("number-preset", {"attacks": [{"dpo": {"preset": 3}}]}, "preset"),
    ("list-preset", {"attacks": [{"dpo": {"preset": ["x"]}}]}, "preset"),
    ("settings-of-text", {"attacks": [{"sft": "fast"}]}, "attacks"),
    ("settings-of-a-number", {"defenses": [{"refusal_loss": 3}]}, "defenses"),
    ("settings-of-a-list", {"defenses": [{"refusal_loss": ["alpha"]}]}, "defenses"),
    ("label-of-a-list", {"attacks": [{**SFT, "label": ["x"]}]}, "attacks.*label"),
    ("label-of-settings", {"defenses": [{"refusal_loss": {}, "label": {"x": 1}}]}, "defenses.*label"),
    ("label-true", {"judges": {"own": {"keyword": {}, "label": True}}}, "own.*label"),
    ("description-of-a-list", {"description": ["x"]}, "description"),
    ("description-of-settings", {"description": {"x": 1}}, "description"),
    ("two-names-in-one", {"attacks": [{"sft": {}, "dpo": {}}]}, "attacks"),
    ("number-for-an-attack", {"attacks": [3]}, "attacks"),
    ("number-key", {"attacks": [{"sft": {3: 1}}]}, "3"),
    ("null-key", {"attacks": [{"sft": {None: 1}}]}, "None|null"),
    ("warm-start-of-unknown-attack", {"attacks": [[SFT, {"warm_start": {"attack": "wizard"}}]]}, "wizard"),
    ("warm-start-with-unknown-key", {"attacks": [[SFT, {"warm_start": {"settings": {"lr": 1}}}]]}, "lr"),
    (
        "tar-against-unknown-attack",
        {"attacks": ["none"], "defenses": [{"tar": {"adversaries": {"wizard": {}}}}]},
        "wizard",
    ),
    ("delta-of-no-such-folder", {"attacks": [[SFT, {"subtract_delta": {"base": "./no/such"}}]]}, "no/such"),
    ("expert-of-no-such-folder", {"attacks": [[SFT, {"mix_weights": {"model": "./no/such"}}]]}, "no/such|model"),
    (
        "warm-up-longer-than-the-run",
        {"attacks": [{"sft": {"optim": {"max_steps": 2, "warmup_steps": 5000}}}]},
        "warmup",
    ),
    ("answers-longer-than-the-context", {"evaluation": {"max_new_tokens": 5000}}, "lower evaluation.max_new_tokens"),
    (
        "answers-twice-as-long-as-the-context-has-room",
        {"evaluation": {"max_new_tokens": 70, "metrics": {"two_lengths": True}}},
        "lower evaluation.max_new_tokens",
    ),
    (
        "a-model-of-reference-that-is-nowhere",
        {"evaluation": {"metrics": {"perplexity": {"path": "./nowhere"}}}},
        r"evaluation\.metrics\.perplexity: \./nowhere",
    ),
    ("pairs-beside-the-sandbox", {"data": {"pairs": {"path": "p.jsonl"}}}, "give `harmful` and `benign` too"),
]


def values(group: str, table: dict[str, str], grid: dict[str, Any]) -> list[Case]:
    """A case for every value of every key below `group`, given as an override of a grid that is good without it."""
    return [
        Case(
            area="settings",
            name=f"{group}.{key}={value}",
            argv=(*RUN, f"{group}.{key}={value}"),
            says=(rf"\b{key}\b",),
            files={"grid.yaml": grid},
        )
        for key, bad in table.items()
        for value in bad.split()
    ]


def cases() -> list[Case]:
    """All of them."""
    all_cases = [case for group, table in GRID.items() for case in values(group, table, SMALL)]
    all_cases += values("attacks.sft.optim", OPTIM, SMALL)
    reinforced = changed(SMALL, {"attacks": [{"grpo": {"optim": SFT["sft"]["optim"], "reward": {"judge": "keyword"}}}]})
    all_cases += values("attacks.grpo.policy", POLICY, reinforced)
    for name, table in ATTACKS.items():
        own = SFT["sft"] if name in ("sft", "dpo") else {"reward": {"judge": "keyword"}}
        if name == "grpo":
            own = reinforced["attacks"][0]["grpo"]
        all_cases += values(f"attacks.{name}", table, changed(SMALL, {"attacks": [{name: own}]}))
    for name, table in ONLINE.items():
        all_cases += values(f"defenses.{name}", table, changed(SMALL, {"defenses": [name]}))
    for name, table in OFFLINE.items():
        short = {} if name == "rounded" else {"optim": {"max_steps": 1, "per_device_train_batch_size": 2}}
        quick = {name: short}
        all_cases += values(f"defenses.{name}", table, changed(SMALL, {"defenses": [quick], "attacks": ["none"]}))
    for name, table in ADAPTIVE.items():
        attack = reinforced["attacks"][0] if name == "entropy_bonus" else SFT
        grid = changed(SMALL, {"attacks": [[attack, name]]})
        all_cases += values(f"attacks.{name}", table, grid)
    all_cases += [
        Case(
            area="settings",
            name=f"seeds={value}",
            argv=(*RUN, f"seeds={value}"),
            says=("seed",),
            files={"grid.yaml": SMALL},
        )
        for value in SEEDS.split()
    ]
    return all_cases + [of_small("settings", name, changes, says) for name, changes, says in COMBINATIONS]
