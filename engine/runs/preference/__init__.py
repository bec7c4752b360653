"""What judges and people prefer: answers of rungs side by side, directories of judges, ratings, sentences."""
