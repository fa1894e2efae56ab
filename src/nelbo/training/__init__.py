"""Training: one readable loop, checkpoints that are verified, randomness without a state."""
