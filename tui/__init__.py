"""The `ftbench` command and the workbench; they import torch-free packages of the engine only."""
