"""What each method costs, as `counting.py` counts it (tests hold this table to that), and hyperparameters to try it."""

from typing import NamedTuple


class Cost(NamedTuple):
    """What a client of a method does, moves and keeps.

    Attributes:
      set: hyperparameters of an example, as --set takes them.
      options: further words of the example's command.
      passes: gradients of all its examples in a round of E epochs, and evaluations of the loss alone.
      up: sent in a round, in models: those of the 2NN on the digits, under the example's hyperparameters.
      down: received, likewise.
      kept: between its rounds, likewise.
      personal: whether clients have models of their own.
    """

    set: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    passes: str = "E gradients"
    up: float = 1
    down: float = 1
    kept: float = 0
    personal: bool = False


COSTS = {
    "afl": Cost(("lambda_lr=0.1",), passes="E gradients, 1 evaluation"),
    "apfl": Cost(("alpha=0.5",), passes="2E gradients", kept=1, personal=True),
    "di_lo_co": Cost(("inner_optimizer=rmsprop:0.001",), kept=1),
    "ditto": Cost(("lam=0.1",), passes="2E gradients", kept=1, personal=True),
    "fed_adagrad": Cost(("server_lr=0.01",)),
    "fed_adam": Cost(("server_lr=0.01",)),
    "fed_ala": Cost(("top=last_layer",), passes="E + 1 gradients", kept=1, personal=True),
    "fed_avg": Cost(),
    "fed_avg_m": Cost(("momentum=0.9",)),
    "fed_babu": Cost(("head=last_layer",), up=0.96, down=0.96),
    "fed_bn": Cost(("norm=dense_0",), up=0.76, down=0.76, kept=0.24, personal=True),
    "fed_dyn": Cost(("alpha=0.1",), kept=1),
    "fed_exp": Cost(),
    "fed_kseed": Cost((), ("--client-lr 1e-4",), passes="2E evaluations", up=0.074, down=0.074),
    "fed_lin": Cost(passes="E + 1 gradients", up=2, down=2),
    "fed_nova": Cost(),
    "fed_pa": Cost(("rho=0.01", "num_samples=5", "steps_per_sample=5")),
    "fed_per": Cost(("personal=last_layer",), up=0.96, down=0.96, kept=0.036, personal=True),
    "fed_prox": Cost(("mu=0.1",)),
    "fed_prox_adaptive": Cost(passes="E gradients, 1 evaluation"),
    "fed_recon": Cost(("local=last_layer",), passes="E + 1 gradients", up=0.96, down=0.96),
    "fed_rep": Cost(("head=last_layer",), passes="E + 1 gradients", up=0.96, down=0.96, kept=0.036, personal=True),
    "fed_sgd": Cost((), ("--server-lr 0.1",), passes="1 gradient"),
    "fed_yogi": Cost(("server_lr=0.01",)),
    "fine_tuned": Cost(("algorithm=fed_avg",), passes="E + 1 gradients", kept=1, personal=True),
    "hyp_cluster": Cost(
        ("num_clusters=2",), passes="E gradients, 2 evaluations", up=2, down=2, kept=1.8e-05, personal=True
    ),
    "ifca": Cost(("num_clusters=2",), passes="E gradients, 2 evaluations", up=2, down=2, kept=1.8e-05, personal=True),
    "k_means": Cost(("num_clusters=10",), passes="1 evaluation"),
    "lg_fed_avg": Cost(("local=dense_0",), up=0.76, down=0.76, kept=0.24, personal=True),
    "lora": Cost(("rank=4", "alpha=8"), up=0.063, down=0.063),
    "mime": Cost(("base_optimizer=sgd:0.1,momentum=0.9",), passes="2E + 1 gradients", up=2, down=3),
    "mime_lite": Cost(("base_optimizer=sgd:0.1,momentum=0.9",), passes="E + 1 gradients", up=2, down=2),
    "one_shot": Cost(),
    "p_fed_me": Cost(("lam=15", "eta=0.01", "inner_steps=5"), passes="5E gradients", kept=1, personal=True),
    "per_fed_avg": Cost(("alpha=0.1",), passes="4E gradients"),
    "q_fed_avg": Cost(("q=1",), passes="E gradients, 1 evaluation"),
    "q_fed_sgd": Cost(("q=1", "server_lr=0.1"), passes="1 gradient, 1 evaluation"),
    "reptile": Cost(("epsilon=0.5",)),
    "scaffold": Cost(up=2, down=2, kept=1),
    "streaming_di_lo_co": Cost(
        ("inner_optimizer=rmsprop:0.001", "fragments=4", "steps=2"),
        passes="1 gradient",
        up=0.25,
        down=0.25,
        kept=2,
    ),
    "term": Cost(("t=1",), passes="E gradients, 1 evaluation"),
}
