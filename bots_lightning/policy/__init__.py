"""The policy: a causal language model, how it is loaded, computes, and is exported; and the critic of PPO."""
