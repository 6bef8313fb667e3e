"""The limits: raw JAX, nothing federated, one file a workload; frozen, so that figures stay comparable over time.

No file here imports fedjaxlite. Each holds the loss of its workload twice: `plain_loss` as one writes it first (XLA's
convolutions, an LSTM cell in a scan), and `fast_loss` as fast as its author could make it. `loops.py` has the two loops
around them.
"""
