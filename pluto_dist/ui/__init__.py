"""The page of `pluto-dist ui`: Runs in a browser, from this machine alone.

    serve      the socket, who may ask (host header, origin, token), the end
    app        addresses, and what answers there
    live       the list of Runs; server-sent events: something has changed
    opened     Runs that pages have open, and their points as they grow
    run        one Run: what it has come to, who failed first, processes, lanes of time, files and console
    curves     series thinned for a chart, ranks as a band or as lines

Everything that is shown is read by `pluto_dist.read`; nothing here decides about a Run. `static/` holds the
page: modules of plain JavaScript without a build step, and uPlot with its licence under `static/vendor`.
"""
