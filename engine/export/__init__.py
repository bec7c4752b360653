"""Export a finished run as an artifact to use, and check the artifact against the run on the same test items."""
