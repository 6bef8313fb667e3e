"""Examples on their way into a `Population`: what every reader of a foreign format shares.

    choice.py     which clients and which columns are wanted, and what a wrong name is told
    columns.py    raw columns (lists, bytes, arrays) as arrays of numbers
    gather.py     chunks of clients, or of rows with their owners, packed without a second copy
    arrow.py      Arrow tables as raw columns        hf_dataset.py   the tables of a `datasets.Dataset`
    pictures.py   encoded images as pixels

What comes in: what two readers need. A reader itself is in `datasets/formats/` or in `interop/`.
"""
