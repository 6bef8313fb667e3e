"""Composed runs under differential privacy, for tests of what is read off them; nothing of them is compiled."""

import helpers

import fedjaxlite as fl
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.mechanisms import Mechanism

N = 100
DELTA = 1e-5


def run(sampler, *codecs, over=None, algorithm=None) -> fl.Rounds:
    """A composed run; nothing of it is compiled here."""
    algorithm = helpers.sender(helpers.first_value) if algorithm is None else algorithm
    over = sampler.accounting.expected_size(N) if over is None else over
    return fl.rounds(
        algorithm, sampler=sampler, aggregator=fl.chain(fl.mean(over=over), *codecs), execution=helpers.ONE
    )


def noised(noise=1.0, clip=1.0) -> fl.Aggregator:
    return gaussian(clip_norm=clip, noise_multiplier=noise)


def poisson(rate=0.1, capacity=60) -> fl.Sampler:
    return fl.sampling.poisson(rate, capacity=capacity)


def mechanism(**fields) -> fl.Aggregator:
    """A codec of a made-up mechanism, which does nothing but state its facts."""

    def init(wire):
        own = Mechanism(**{"kind": "made_up", "releases": (), "trust": "Nobody.", **fields})
        return (), wire._replace(mechanisms=(*wire.mechanisms, own), noised=True)

    return fl.Aggregator(init)
