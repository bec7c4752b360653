"""Push an exported artifact to the Hugging Face Hub: `ftbench export RUN --push REPO`."""
