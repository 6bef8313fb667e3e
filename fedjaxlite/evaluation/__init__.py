"""Evaluation: how good a model is, on data in one place or at every client.

    central.py      one model on one set of examples
    per_client.py   the server's model, or each client's own, on each client's examples; and after fine-tuning
    predictions.py  what a model says of every example
    from_disk.py    one model on a population that lies on a disk, piece by piece
    in_pieces.py    what clients tell, of all at once or of one piece of a disk after the other
    measuring.py    what all of them do with a batch       by_size.py   clients in groups of like size

What comes in: whatever measures a model and trains nothing that is kept.
"""
