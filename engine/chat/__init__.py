"""Load one base with the adapters of finished runs, answer prompts with each of them, and verify that each is active."""
