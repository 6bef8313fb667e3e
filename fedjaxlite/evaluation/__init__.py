"""Evaluation: how good a model is, on data in one place or at every client.

    central.py      one model on one set of examples
    per_client.py   the server's model, or each client's own, on each client's examples; and after fine-tuning

What comes in: whatever measures a model and trains nothing that is kept.
"""
