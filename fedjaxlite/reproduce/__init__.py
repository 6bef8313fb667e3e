"""Tables and figures of papers, run again by `fedjaxlite reproduce NAME`; `catalog` says which there are.

A module makes a `table.Table` of rows, each of which runs by itself; `table.run` runs them, keeps what is done, and
shows it beside what the paper has. `seeds` and `to_target` train several seeds of one run.
"""
