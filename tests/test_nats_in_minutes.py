"""benchmarks/nats_in_minutes.py: peers are the same network, and both ways are trained and evaluated."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import nats_in_minutes
from fastgen.data import Dataset
from nats_in_minutes import DATA, GATED, PAIRS, PEERS, in_plain_torch, main, ours, theirs
from ops import ops_run

LITTLE = {"channels": 4, "layers": 1}
PLUS = {"channels": 4, "blocks": 1, "resolutions": 2, "components": 2, "image_size": 8}
#: The same models, so small that they take no time, of images of 8×8 pixels.
SMALL: dict[str, dict[str, Any]] = {
    "mixture of logistics": PLUS,
    "categorical head": PLUS,
    "categorical": {},
    "two scales": LITTLE | {"scales": (4,), "image_size": 8},
    "given": LITTLE | {"image_size": 8},
}


def small(make: partial, **sizes: Any) -> partial:
    return partial(make.func, *make.args[:2], **{**make.keywords, **sizes})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks and images that take no time."""
    for name, make in list(PEERS.items()):
        monkeypatch.setitem(PEERS, name, small(make, **LITTLE))
    for contest, ways in list(PAIRS.items()):
        changed = {way: small(make, **SMALL.get(way, LITTLE | {"image_size": 8})) for way, make in ways.items()}
        if contest == "super-resolution":
            changed["given"] = small(GATED, **SMALL["given"], condition_shape=(1, 2, 2))
        if contest == "colour":
            changed["given"] = small(changed["alone"], condition_shape=(1, 8, 8))
        if contest == "pixelcnn++":
            changed["categorical"] = small(changed["categorical"], **LITTLE)
        monkeypatch.setitem(PAIRS, contest, changed)

    def loaded(name: str, split: str, levels: int | None = None, image_size: int | None = None) -> Dataset:
        levels = levels or (256 if name == "mnist" else 2)
        generator = torch.Generator().manual_seed(0)
        shape = (20, 3 if name == "cifar10" else 1, 8, 8)
        values = torch.randint(levels, shape, generator=generator, dtype=torch.uint8)
        return Dataset(values, None, levels, None, split)

    monkeypatch.setattr(nats_in_minutes, "load", loaded)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PEERS)
def test_the_peer_computes_the_same_gradients_without_an_op_of_fastgen(name: str) -> None:
    torch.manual_seed(0)
    model = PEERS[name]().double()
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


@pytest.mark.parametrize("contest", ["gated-pixelcnn", "row-lstm", *PAIRS])
def test_both_are_trained_and_evaluated_on_all_images(
    contest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nats.json"
    arguments = ["--minutes", "0.004", "--turn", "0.06", "--threads", "1", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["nats_in_minutes", contest, *arguments])
    main()
    found: dict[str, Any] = json.loads(path.read_text())
    assert (found["options"]["contest"], found["options"]["data"]) == (
        contest,
        DATA.get(contest, ["binarized-mnist"])[0],
    )
    ways = list(PAIRS.get(contest, ["fastgen", "plain torch"]))
    assert list(found["results"]) == list(found["curves"]) == ways
    for way in ways:
        result, curve = found["results"][way], found["curves"][way]
        assert (result["images"], result["steps"]) == (20, curve[-1]["steps"])
        assert result["seconds"] >= 0.24
        assert 0 < result["nats"] < 10 * result["dims"]
        assert ("nats_given_anothers" in result) == (way == "given")


def test_another_network_is_refused_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nats_in_minutes", "pixelcnn", "--minutes", "0.001"])
    monkeypatch.setattr(nats_in_minutes, "theirs", lambda *given: theirs(*given) * 1.001)
    with pytest.raises(AssertionError, match="allowed"):
        main()
