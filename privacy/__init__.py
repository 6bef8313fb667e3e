"""Privacy for federated learning: clipping, noise, accounting and secure aggregation."""
