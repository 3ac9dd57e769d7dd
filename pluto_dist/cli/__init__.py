"""The command line `pluto-dist`. Commands ask and print; nothing is decided here.

A command is in the module, or folder, of its name; `download` is in `artifacts`. `main` has the table of them
and their exit codes, `options` reads the command line, `console` prints (it is no console of a Run; that is
`logs`), `chart` draws.
"""
