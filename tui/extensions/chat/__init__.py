"""`ftbench try`: the command and the chat screen."""
