"""One model for everybody: federated averaging, and what corrects, adapts or accelerates it."""
