"""Reading Runs: where they are found, what is known of them, and their points as columns."""
