"""Audits: how much a run that is claimed to be private gives away, measured.

A lower bound on epsilon from an attack. It can show that a guarantee does not hold, and never that it does: a bound
below the claim is what a correct program gives, a bound above it is a bug.

    canaries.py  clients whose updates are known directions, put into any algorithm by coin flips
    bounds.py    from scores to lower bounds on epsilon, with their confidence
"""

from fedjaxlite.privacy.audit.bounds import epsilon_many_runs as epsilon_many_runs
from fedjaxlite.privacy.audit.bounds import epsilon_one_run as epsilon_one_run
from fedjaxlite.privacy.audit.canaries import AuditState as AuditState
from fedjaxlite.privacy.audit.canaries import with_canaries as with_canaries

__all__ = ["AuditState", "epsilon_many_runs", "epsilon_one_run", "with_canaries"]
