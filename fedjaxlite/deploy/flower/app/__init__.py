"""The two halves of a federated run as a Flower app: what a node runs, and what the server runs."""
