"""`pluto-dist top`: Runs and their processes, live, in the terminal."""
