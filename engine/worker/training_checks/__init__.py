"""Train each method for a few steps on this machine and compare with what the plan, padding and transformers give."""
