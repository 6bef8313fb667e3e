"""The wire: codecs around a sum. What crosses between a client and the server, and what may the server see?

    client   value --(clip)--> value --(quantize)--> integers --> packed bytes                         encode
    wire     packed bytes, and a weight
    server   packed bytes --> integers --(* weight)--> summand                                         read
             sum of summands                                                                           fold
             mean <--(/ weight)-- sum <--(clip: nothing)-- sum <--(scale)-- total                      decode

    before a mask the client multiplies by the weight and masks whole words, and there is nothing to read

A server that may only learn a sum can only use `decode(sum of encode(x))`. The fold is therefore not a parameter: it is
pytree addition, in floats or in the integers mod 2^32, so that accumulating is `+`, merging devices is `psum`, and the
type is what secure aggregation can compute. A codec whose codes do not add up is undone in `read`, message by message.

    aggregator.py     what a codec is: Message, Wire, Aggregator    chain.py    codecs in a row, and their order
    head.py           the wire at the head of a chain, by hand      row.py      codecs in a row, wherever they stand
    means.py clips.py quantization.py   the plain codecs            stacking.py what is no sum
    integers.py       what codecs to integers mod 2^32 share        rows.py     all messages of a round, side by side
    messages.py       messages as bytes                             entropy.py  how small they could be
    packing/          numbers in bytes, and back                    compression/   codecs from papers
    robust/           rules from papers that withstand lying clients

What comes in: codecs that make no claim about privacy; those that do stand in `privacy/`.
"""
