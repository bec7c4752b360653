"""Training: micro-batches, the loss, transformers' Trainer with our batches, ranks and checkpoints."""
