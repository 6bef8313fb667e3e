"""Faults of a run that goes on: what is done about each, and what is told where nothing can be done.

    last_words.py    what is safe, and how the run goes on, where storage failed or SIGTERM came
    fewer_lanes.py   a device that is out of memory: the same round with half as many lanes
    lost_model.py    a model that is no longer finite: which round, and which clients

What comes in: what befalls a run from outside, or from its own numbers, once it has begun. What is wrong before that is
refused where it is built; guards that watch over several rounds are observers.
"""
