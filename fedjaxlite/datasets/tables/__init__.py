"""Tables: CSV, Parquet, Arrow and data frames as clients, in one call.

    from_table.py the call and its arguments         table.py      `Table`, and how one is read
    roles.py      what each column is for
    sources.py    files and frames, part by part     csv_files.py  CSV, block by block
    passes.py     keys first, then inputs            kinds.py      what a column holds
    words.py      categories and classes as codes    assembly.py   owners, labels, rows: a population
    refusals.py   what a table may not hold

What comes in: reading rows and columns, what becomes of categories, missing values and ids.
"""
