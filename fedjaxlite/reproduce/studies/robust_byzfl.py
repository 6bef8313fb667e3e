"""Cells of a grid of attacks and rules in ByzFL, which runs one after the other: `python robust_byzfl.py work.npz`.

It imports numpy, PyTorch and ByzFL alone, and prints a line of JSON for each cell. Clients, server, attacks and rules
are ByzFL's own, in the order of its `start_training`; batches come from tensors in memory, without its transforms of
single images, which would only take longer.
"""
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

import itertools
import json
import sys
import time
import types
from typing import Any

import numpy as np


def main(path: str) -> None:
    """Runs the cells that the file asks for."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    settings = json.loads(str(arrays.pop("settings")))
    _without_torchvision()
    import byzfl
    import torch

    torch.set_num_threads(int(settings["threads"]))
    byzfl.fed_framework.models.grid_model = lambda: _model(settings["features"])
    data = {name: torch.from_numpy(arrays[name]) for name in ("x", "y", "test_x", "test_y")}
    for cell in settings["cells"]:
        began, cpu = time.perf_counter(), time.process_time()
        accuracy = _cell(byzfl, data, arrays, settings, cell)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        sys.stdout.write(json.dumps({**cell, "accuracy": accuracy, "seconds": seconds, "cpu": cpu}) + "\n")
        sys.stdout.flush()


def _without_torchvision() -> None:
    """ByzFL reads its own data by torchvision, which has no build beside every PyTorch; nothing here needs it."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except (ImportError, RuntimeError):
        empty = {name: types.ModuleType(f"torchvision.{name}") for name in ("datasets", "transforms")}
        for name in ("Compose", "RandomHorizontalFlip", "ToTensor", "Normalize", "RandomCrop"):
            setattr(empty["transforms"], name, lambda *args, **kwargs: None)
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        for name, module in empty.items():
            sys.modules[f"torchvision.{name}"] = module
            setattr(sys.modules["torchvision"], name, module)


def _model(features: list[int]) -> Any:
    import torch

    widths = list(itertools.pairwise(features))
    layers: list[Any] = []
    for i, (before, after) in enumerate(widths):
        layers += [torch.nn.Linear(before, after)] + ([torch.nn.ReLU()] if i < len(widths) - 1 else [])
    return torch.nn.Sequential(*layers)


def _cell(byzfl: Any, data: dict[str, Any], arrays: dict[str, Any], settings: dict[str, Any], cell: Any) -> float:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    byzfl.utils.misc.set_random_seed(cell["seed"])
    f, n = cell["f"], settings["num_clients"]
    bad = 0 if cell["attack"]["name"] == "NoAttack" else f
    common = {
        "model_name": "grid_model",
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": settings["learning_rate"],
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }

    def loader(client: int) -> Any:
        offsets = arrays[f"offsets_{cell['data']}"]
        rows = torch.from_numpy(arrays[f"rows_{cell['data']}"][offsets[client] : offsets[client + 1]])
        own = TensorDataset(data["x"][rows], data["y"][rows])
        return DataLoader(own, batch_size=settings["batch_size"], shuffle=True)

    of_client = {
        **common,
        "loss_name": "CrossEntropyLoss",
        "LabelFlipping": cell["attack"]["name"] == "LabelFlipping",
        "momentum": settings["momentum"],
        "nb_labels": settings["features"][-1],
        "store_per_client_metrics": False,
    }
    clients = [byzfl.Client({**of_client, "training_dataloader": loader(i)}) for i in range(n - bad)]
    rule, before = cell["rule"], cell["before"]
    test = DataLoader(TensorDataset(data["test_x"], data["test_y"]), batch_size=1000)
    server = byzfl.Server({**common, "test_loader": test, "aggregator_info": rule, "pre_agg_list": before})
    for i, layer in enumerate(server.model[::2]):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(arrays[f"kernel_{cell['seed']}_{i}"].T))
            layer.bias.zero_()
    of_attack = {**cell["attack"]["parameters"], "aggregator_info": rule, "pre_agg_list": before, "f": bad}
    attacker = byzfl.ByzantineClient({"name": cell["attack"]["name"], "f": bad, "parameters": of_attack})
    _train(server, clients, attacker, settings["rounds"], bool(of_client["LabelFlipping"]))
    with torch.no_grad():
        return float(server.compute_test_accuracy())


def _train(server: Any, clients: list[Any], attacker: Any, rounds: int, flipped: bool) -> None:
    for step in range(rounds + 1):
        state = server.get_dict_parameters()
        for client in clients:
            client.set_model_state(state)
        if step == rounds:
            return
        for client in clients:
            client.compute_gradients()
        honest = [client.get_flat_gradients_with_momentum() for client in clients]
        seen = [client.get_flat_flipped_gradients() for client in clients] if flipped else honest
        server.update_model_with_gradients(honest + attacker.apply_attack(seen))


if __name__ == "__main__":
    main(sys.argv[1])
