"""Tables and figures of papers, run again by `fedjaxlite reproduce NAME`; `catalog` says which there are.

A module makes a `table.Table` of rows, each of which runs by itself; `running.run` runs them, keeps what is done
(`kept`), and shows it beside what the paper has (`text`). `seeds` and `to_target` train several seeds of one run.

    papers/ studies/   the tables themselves: of papers, and of this library

What comes in: claims that somebody else made, with settings, seeds and figures beside theirs.
"""
