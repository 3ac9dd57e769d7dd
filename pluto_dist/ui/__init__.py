"""The page of `pluto-dist ui`: Runs in a browser, from this machine alone.

    guard      who may ask: host header, origin, token
    app        addresses, and what answers there
    runs       the list of Runs
    run        one Run: what it has come to, who failed first, processes, lanes of time
    curves     series thinned for a chart, ranks as a band or as lines
    media      files, texts, histograms and tables
    live       server-sent events: something has changed
    serve      the socket, the address that is printed, the end

Everything that is shown is read by `pluto_dist.read`; nothing here decides about a Run. `static/` holds the
page: modules of plain JavaScript without a build step, and uPlot with its licence under `static/vendor`.
"""
