"""What a person touches: the `ftbench` command. Imports from engine only the contract, and never torch."""
