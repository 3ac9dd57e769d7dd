"""RING 1: the record files of a lease, written by trainers and read by the coordinator.

    frames      the format of a segment: its name, its bytes, and the pure `scan` that cuts it
    files       the few file operations everything here needs
    space       how much disk the spool may take, and the safe removal of delivered segments
    writer      trainer side: one `write()` per record, a chain of its own in each fork, group fsync
    reader      coordinator side: cuts behind cursors
    batches     what the lines of a cut contain, and the lines under their final names
    blobs       contents of logged files
    file_lines  the lines that name them
    sources     the user's files, found and read as they were when they were logged

A stream is a chain of segments `<stream>-<number>.spool` in the lease's folder. Each segment has a cursor of
its own, because a write that was in flight during a rotation lands in the segment before.
"""
