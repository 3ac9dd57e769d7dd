"""The command line `pluto-dist`: commands only ask and show; what they show is decided elsewhere."""
