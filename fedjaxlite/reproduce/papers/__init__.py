"""Tables of papers, run again: one file a paper, or a few for a long one."""
