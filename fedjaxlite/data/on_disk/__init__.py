"""Populations that lie on a disk: a folder with one raw file a feature, mapped into memory, read a cohort at a time.

    header.py         what a folder holds, sealed: written last, so that a folder is whole or refused
    folder.py         a folder opened, begun and finished
    reading.py        the rows of some clients, or of all of them piece by piece
    sizes.py          how many clients have how many examples: bounds on a cohort, without a pass over the clients
    names.py          clients' names on the disk, and the index that finds one of millions
    columns.py        rows checked as they are written, feature by feature
    write_clients.py  a folder of clients that come one after the other
    write_rows.py     a folder of rows whose clients are mixed: counted, divided, each brought to its place
    one_file.py       a population in one .npz file, whole
    refusing.py       what is told where all of a population has to be in memory
    digest.py         the fingerprint of what was written

What comes in: how a `Population` is laid out on a disk, and what reads and writes it in bounded memory. Readers of
foreign formats are in `datasets/formats/`.
"""
