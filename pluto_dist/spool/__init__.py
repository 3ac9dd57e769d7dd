"""RING 1: the record files of a lease, written by trainers and read by the coordinator.

    names       file names of segments and streams
    frames      the byte format and the pure `scan` that cuts it
    files       the few file operations everything here needs
    forks       calls a writer in each forked child
    space       how much disk the spool may take, and the safe removal of delivered segments
    writer      trainer side: one `write()` per record
    durability  group fsync for `durability="machine"`
    reader      coordinator side: cuts behind cursors
    blobs       contents of logged files
    folders     the files of a folder or of a pattern
    file_lines  the lines that name them
    sources     those contents, read as they were when they were logged

A stream is a chain of segments `<stream>-<number>.spool` in the lease's folder. Each segment has a cursor of
its own, because a write that was in flight during a rotation lands in the segment before.
"""
