"""The options of `run` and `plan`, each a type with its help; `settings.py` says what they are where nothing is given.

    learning.py    data, model and training, participation     wire.py    what crosses the wire, and privacy
    running.py     evaluation, machine, output                 bad_clients.py  attacks, and rules against them
    clock.py       how long clients take, and servers that do not wait
    option.py      what an option is

What comes in: an option beside those of its panel.
"""
