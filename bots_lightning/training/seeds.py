"""Streams of randomness below the seed of a run: everything is derived from (seed, stream, …), nothing from a state."""

TRAIN, EVALUATE, PREDICT, ADAPTERS, MINIBATCHES, CRITIC = range(6)
