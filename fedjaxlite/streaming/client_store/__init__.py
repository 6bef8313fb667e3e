"""Client states outside of the devices: in host memory, or in a folder, where they may be larger than all memory.

    rows.py      one client's state as a row of bytes, and whose rows they are
    store.py     what a store does, wherever its rows are: `open_at`
    in_memory.py rows in host memory, which a checkpoint copies
    in_folder.py rows in a sparse file, which a checkpoint marks
    journal.py   what the rows were before they were overwritten, so that a crash tears nothing
    writing.py   the order of both, and where they stand
    files.py     reads, writes and flushes at a place of a file

What comes in: where a client's state lies between its rounds. When it is fetched and written back is the room above.
"""

from fedjaxlite.streaming.client_store.in_folder import is_there as is_there
from fedjaxlite.streaming.client_store.rows import as_keys as as_keys
from fedjaxlite.streaming.client_store.rows import first_of as first_of
from fedjaxlite.streaming.client_store.store import ClientStore as ClientStore
from fedjaxlite.streaming.client_store.store import open_at as open_at
