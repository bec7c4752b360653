"""`ftbench doctor`: trains each method for a few steps here and compares with the plan, padding and transformers."""
