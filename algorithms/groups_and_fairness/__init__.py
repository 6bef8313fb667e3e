"""Several models, or one that weighs its clients: clusters, and fairness between clients."""
