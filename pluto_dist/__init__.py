"""One experiment Run for many processes."""
