"""The wire: codecs around a sum. What crosses between a client and the server, and what may the server see?

    client   value --(clip)--> value --(quantize)--> integers --(* weight)--> --(mask)--> element      encode
    wire                                                                       sum of elements         fold
    server   mean <--(/ weight)-- sum <--(clip: nothing)-- sum <--(scale)-- sum <--(unmask)-- total    decode

A server that may only learn a sum can only use `decode(sum of encode(x))`. The fold is therefore not a parameter: it is
pytree addition, in floats or in the integers mod 2^32, so that accumulating is `+`, merging devices is `psum`, and the
type is what secure aggregation can compute.

    aggregator.py     what a codec is: Message, Wire, Aggregator    chain.py    codecs in a row, and their order
    head.py           the wire at the head of a chain, by hand
    means.py clips.py quantization.py   the plain codecs            stacking.py rules that are no sums

What comes in: codecs that make no claim about privacy; those that do stand in `privacy/`.
"""
