"""Names of options in the flat layout, `model.init_args.OPTION` and `data.init_args.OPTION`, and what they are now."""

from __future__ import annotations

import re

PARTS = {
    "policy": "pretrained lora dtype gradient_checkpointing temperature max_tokens_per_microbatch",
    "scorer": "reward_funcs reward_weights reward_range evidence evidence_range",
    "sampler": "num_generations max_prompt_length max_completion_length truncate_prompts engine dynamic_sampling "
    "max_staleness",
    "optimizer": "learning_rate weight_decay lr_scheduler_type warmup_steps max_grad_norm max_skipped_steps",
}
ALGORITHM = (  # of GRPO and PPO together
    "kl_coef kl_estimator entropy_coef mask_truncated_completions soft_punish_cache target_kl loss_type epsilon "
    "epsilon_high delta importance_sampling_level adv_estimator scale_rewards num_iterations steps_per_generation "
    "use_bias_correction_kl critic critic_learning_rate num_ppo_epochs num_mini_batches cliprange cliprange_value "
    "vf_coef gamma lam whiten_rewards missing_eos_penalty off_policy_mask_threshold"
)
CORRECTION = "importance_sampling_"
# Options of `model.init_args`, and their places below `model`.
PLACES = {
    **{option: f"{part}.{option}" for part, options in PARTS.items() for option in options.split()},
    **{option: f"algorithm.{option}" for option in ALGORITHM.split()},
    **{f"{CORRECTION}{name}": f"algorithm.importance_sampling.{name}" for name in ("mode", "clip_max", "clip_min")},
    f"{CORRECTION}correction": "algorithm.importance_sampling",  # false is null
    "eval_num_generations": "evaluation.num_generations",
    "eval_pass_k": "evaluation.pass_k",
    "check_ranks_every": "check_ranks_every",
    "seed": "seed",
}
OLD_NAME = re.compile(r"\b(?P<section>model|data)\.(?:class_path|init_args(?:\.(?P<option>\w+))?)\b")


def place_of(option: str) -> str:
    """Where an option of `model.init_args` is now, below `model`; one that is not known is given to the algorithm."""
    return PLACES.get(option, f"algorithm.{option}")


def present_name(text: str) -> str:
    """An option's full name in the flat layout, or a text with such names, in the present one."""
    return OLD_NAME.sub(_present, text)


def _present(found: re.Match[str]) -> str:
    section, option = found["section"], found["option"]
    if section == "data":
        return "data" if option is None else f"data.{option}"
    return "model.algorithm" if option is None else f"model.{place_of(option)}"
