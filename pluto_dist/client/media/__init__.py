"""Values for `log()` beside numbers and texts, with the official client's names and arguments.

    base        what a file and a data value are to `log()`
    files       File, Artifact, Text; Image, Audio, Video
    tables      Histogram, Table

A file given by its path is read when it is logged; arrays, figures and images are encoded at once, so what
happens to them afterwards does not show. numpy, torch, Pillow and matplotlib are imported only to encode.
"""
