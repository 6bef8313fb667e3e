"""Backdoors: a model that is right on clean examples, and says what the attacker wants where a trigger is.

    trigger.py            a pattern, stamped on examples; parts of it; the test set that measures success
    backdoor.py           bad clients train on stamped examples with the target's label
    dba.py                each of them stamps a part of the trigger
    edge_case.py          rare examples with a wrong label, and no trigger
    model_replacement.py  bad updates are scaled up, until the attacker's model is what the server gets
    neurotoxin.py         bad updates keep off the coordinates that honest ones move most

What comes in: attacks whose success is measured on examples of their own, and what helps them to survive averaging.
They compose: `model_replacement(backdoor(fed_avg(...), bad, ...), bad, boost=...)`. Of two that change data the outer
one is nearer to the data.
"""
