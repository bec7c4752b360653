"""Live state of a run and of the machine, for the panes and for the command line."""
