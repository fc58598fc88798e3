"""The training loop that all trainers share: batches, attack, step, epochs, checkpoints."""
