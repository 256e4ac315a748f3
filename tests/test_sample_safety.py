"""sample: what its executor does with memory."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastgen.ops.sample import PackedPlan, plan_format
from fastgen.sampling import native_executor
from fastgen.sampling import plan as plans_module
from fastgen.sampling.plan import FORMAT, STEPS, Plan, Step
from plans import attending_plan, deep_plan, packs, plan_with_constants, run, step_plan, table_of

CSRC = Path(__file__).parent.parent / "csrc"


@pytest.mark.parametrize("plan", [deep_plan(levels=3), attending_plan(levels=3, bias=1, read="band")])
def test_codes_are_checked_before_memory_is_touched(plan: Plan) -> None:
    codes, constants = plan.encode()
    generator = torch.Generator().manual_seed(1)
    refused = 0
    for _ in range(300):
        broken = codes.clone()
        at = torch.randint(len(codes), (), generator=generator)
        broken[at] = torch.randint(-1000, 1000, (), generator=generator)
        refused += not packs(broken, constants)
    assert refused > 150
    with pytest.raises(RuntimeError, match="plan: expected more codes"):
        PackedPlan(codes[:-1], constants)
    with pytest.raises(RuntimeError, match="plan: expected a constant"):
        PackedPlan(codes, constants[:-16])
    with pytest.raises(RuntimeError, match="isa: expected one that this machine has, got mmx"):
        PackedPlan(codes, constants, "mmx")


def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are encoded as positions in a list: another list, and every code would mean something else."""
    assert plan_format() == FORMAT
    native_executor.NativePlan(deep_plan())
    for name, changed in (("STEPS", STEPS[1:2] + STEPS[:1] + STEPS[2:]), ("STEPS", STEPS[:-1]), ("LAYOUT", 99)):
        with monkeypatch.context() as patch:
            patch.setattr(plans_module, name, changed)
            patch.setattr(native_executor, "FORMAT", plans_module._format())
            with pytest.raises(RuntimeError, match=rf"got one that reads {FORMAT}; .*install fastgen again"):
                native_executor.NativePlan(deep_plan())
    monkeypatch.setattr(native_executor, "plan_format", lambda: None)
    with pytest.raises(RuntimeError, match=r"got one that reads older ones; .*install fastgen again"):
        native_executor.NativePlan(deep_plan())


@pytest.mark.slow
def test_no_sanitizer_complains(tmp_path: Path) -> None:
    """AddressSanitizer and UBSan on the executor without torch, every instruction set; the values are the op's."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path / "sample_main"
    flags = "-std=gnu++17 -g -O1 -fno-math-errno -fsanitize=address,undefined -fno-sanitize-recover=all"
    source = Path(__file__).with_name("sample_main.cpp")
    subprocess.run([compiler, *flags.split(), f"-I{CSRC}", str(source), "-o", str(program)], check=True)
    wave = step_plan(9, Step("concat_elu"), Step("norm", (3.0, 1e-5)))
    wave.slope = 2
    for buffer in wave.buffers:
        buffer.keep = 5
    rounding = [deep_plan(levels=5, channels=37), deep_plan(levels=5, channels=24)]
    for plan, plan.precision in zip(rounding, ("bfloat16", "float16"), strict=True):
        assert any(plan.rounds(instruction) for instruction in plan.instructions)
    nothing: tuple[Tensor, ...] = ()
    for plan, given, components in (
        (deep_plan(), nothing, 0),
        (deep_plan(levels=5, channels=37), nothing, 0),
        *((plan, nothing, 0) for plan in rounding),
        (deep_plan(C=3, levels=20), nothing, 2),  # a mixture of logistics
        (step_plan(70, Step("gate"), Step("exp")), nothing, 0),
        (wave, nothing, 0),
        (attending_plan(3, 17, 9, "band", bias=3), nothing, 0),
        (attending_plan(2, 16, 33, "before", bias=1), nothing, 0),
        (plan_with_constants(), (torch.randn(7, 1, 1, 6), torch.randn(7, 5, 7, 3)), 0),
    ):
        codes, constants = plan.encode()
        table, _ = table_of(plan, components)
        C, H, W = plan.shape
        uniforms = torch.rand(7, 2 * C if components else C, H, W, dtype=torch.float64)
        maps = torch.cat([each.flatten() for each in (*given, torch.zeros(0))])
        tensors = (codes, constants, uniforms, table, maps, torch.tensor([components]))
        blob = b"".join(struct.pack("q", t.numel()) + t.contiguous().numpy().tobytes() for t in tensors)
        result = subprocess.run([program], input=blob, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr.decode()
        expected = run(plan, uniforms, given=given, components=components).values.numpy().tobytes()
        assert result.stdout
        assert result.stdout == expected * (len(result.stdout) // len(expected))
