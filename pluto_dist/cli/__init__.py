"""The command line `pluto-dist`. Commands ask and print; nothing is decided here."""
