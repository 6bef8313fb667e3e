"""Exit codes of programs and of the command line: one number for each way in which a run can end.

A supervisor (SLURM's --requeue, Kubernetes' restartPolicy, a loop in a shell) tells by them what is
worth starting again:
4, 5, 130 and 143 go on with --resume; 2 and 3 end the same way again.
"""

import signal

DONE = 0
"""All rounds are done, or the run ended early as it was asked to (a target, early stopping)."""

REFUSED = 2
"""Something was refused, or failed in a way that has no code of its own: one line on the standard error says what."""

FAILED = 3
"""The run failed by itself: its model is no longer finite, no update was, or a loss left all bounds."""

PEER_LOST = 4
"""Another process of the run died, or fell silent for longer than the heartbeat."""

STORAGE_FAILED = 5
"""Storage failed while the run went on, and did not come back; the last whole checkpoint was named."""

INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C: 130. The last whole round is saved."""

PIPE_CLOSED = 128 + 13
"""Nobody reads the output any more: that of programs which SIGPIPE ends, 141."""

TERMINATED = 128 + signal.SIGTERM
"""SIGTERM: 143. The rounds of the dispatch were ended and saved."""
