"""Instruction sets, as /proc/cpuinfo lists them."""

from flaxres.cpu import processor


def test_instruction_sets(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : X\nflags : fpu sse2 sse4_2 avx2 avx512f fma\n" * 2)
    monkeypatch.setattr(processor, "CPUINFO", cpuinfo)
    assert processor.instruction_sets() == ["avx2", "avx512f", "fma", "sse4_2"]
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "missing")
    assert processor.instruction_sets() == []
