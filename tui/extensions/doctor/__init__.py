"""`ftbench doctor`: machine, libraries, and with --train the training of each method."""
