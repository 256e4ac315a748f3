"""benchmarks/nats_in_minutes.py: both ways are the same network, and each is trained and evaluated."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nats_in_minutes
from fastgen.data import Dataset
from nats_in_minutes import MODELS, in_plain_torch, main, ours, theirs
from ops import ops_run

NAMES = list(MODELS)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks and images that take no time."""
    for name, (make, _, lr) in list(MODELS.items()):
        monkeypatch.setitem(MODELS, name, (make, {"channels": 4, "layers": 1}, lr))
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(2, (20, 1, 6, 5), generator=generator, dtype=torch.uint8)
    monkeypatch.setattr(nats_in_minutes, "load", lambda name, split: Dataset(values, None, 2, None, split))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_the_peer_computes_the_same_gradients_without_an_op_of_fastgen(name: str) -> None:
    make, size, _ = MODELS[name]
    torch.manual_seed(0)
    model = make(**size).double()
    peer = in_plain_torch(model)
    values = torch.randint(2, (3, 1, 6, 5))
    with ops_run() as ran:
        theirs(peer, values).sum().backward()
    assert ran == set()
    with ops_run() as ran:
        ours(model, values).sum().backward()
    assert "masked_conv2d" in ran
    grads = {name: each.grad for name, each in model.named_parameters()}
    for of, each in peer.named_parameters():
        torch.testing.assert_close(each.grad, grads[of])


@pytest.mark.parametrize("name", ["gated-pixelcnn", "row-lstm"])
def test_both_are_trained_and_evaluated_on_all_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nats.json"
    arguments = ["nats_in_minutes", name, "--minutes", "0.004", "--turn", "0.06", "--threads", "1", "--json", str(path)]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["options"]["model"] == name
    for way in ("fastgen", "plain torch"):
        result, curve = found["results"][way], found["curves"][way]
        assert (result["images"], result["steps"]) == (20, curve[-1]["steps"])
        assert result["seconds"] >= 0.24
        assert 0 < result["nats"] < 60


def test_another_network_is_refused_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nats_in_minutes", "pixelcnn", "--minutes", "0.001"])
    monkeypatch.setattr(nats_in_minutes, "theirs", lambda model, values: theirs(model, values) * 1.001)
    with pytest.raises(AssertionError, match="allowed"):
        main()
