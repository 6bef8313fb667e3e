"""The workloads by name, in the order in which they run."""

from fedjaxlite.benchmarks.workloads import w1_mlp, w2_cnn, w3_ragged, w4_lstm, w5_cifar, w6_million

WORKLOADS = {
    module.WORKLOAD.name: module.WORKLOAD for module in (w1_mlp, w2_cnn, w3_ragged, w4_lstm, w5_cifar, w6_million)
}
