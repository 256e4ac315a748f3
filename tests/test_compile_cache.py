"""What torch's compiler keeps on disk is found again with the same ops alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.compiler import config

from fastgen import _compile_cache
from fastgen.ops import rsample_kl


def test_a_kept_program_belongs_to_the_ops_it_was_made_with(monkeypatch: Any) -> None:
    from torch._dynamo.utils import counters  # these import the compiler, which takes seconds
    from torch._inductor.utils import fresh_cache

    def compiles() -> bool:
        """Whether a training step is compiled, and not found."""
        torch._dynamo.reset()
        counters.clear()
        step = torch.compile(lambda mu: rsample_kl(mu, mu, 3)[0].sum(), fullgraph=True)
        step(torch.randn(4, 5, requires_grad=True)).backward()
        found = counters["aot_autograd"]
        assert found["autograd_cache_hit"] + found["autograd_cache_miss"] == 1, dict(found)
        return found["autograd_cache_miss"] == 1

    now = config.cache_key_tag
    assert "fastgen " in now
    with fresh_cache():
        assert compiles()
        compiles()  # the first of a process may set what belongs to the key
        assert not compiles()
        monkeypatch.setattr(_compile_cache, "__version__", "another")
        with config.patch(cache_key_tag=""):
            _compile_cache.keep_apart()
            assert config.cache_key_tag != now
            assert compiles()
    assert config.cache_key_tag == now


def test_a_tag_that_is_there_is_kept() -> None:
    """And the ops' own is of their sources, and stands there once."""
    script = "import torch, fastgen.ops as o, fastgen._compile_cache as c; from torch.compiler import config; "
    script += "c.keep_apart(); print(config.cache_key_tag); print('torch._inductor' in __import__('sys').modules)"
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    limits = {name: os.environ[name] for name in names if name in os.environ}
    run: Any = lambda **environment: subprocess.run(  # noqa: E731
        [sys.executable, "-c", script], env={**limits, **environment}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    here = str(Path(_compile_cache.__file__).parent.parent)
    alone, beside = (run(PYTHONPATH=here, **more) for more in ({}, {"TORCH_COMPILE_CACHE_KEY_TAG": "mine"}))
    assert alone == [config.cache_key_tag, "False"]
    assert beside == [f"mine {alone[0]}", "False"]
    for name in names[1:]:
        assert run(PYTHONPATH=here, **{name: "SSE41"}) != alone
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        assert run(PYTHONPATH=here, ATEN_CPU_CAPABILITY="default") != alone
