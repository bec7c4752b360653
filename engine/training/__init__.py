"""Training: the loop, gradients in micro-batches, the loss, ranks and checkpoints."""
