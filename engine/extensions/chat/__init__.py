"""Answer prompts with the models of finished runs: one base shared by its adapters, each verified to be active."""
