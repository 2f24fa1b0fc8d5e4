"""Text of the doctor's findings."""

from flaxres.doctor.findings import NOTE, PROBLEM, Finding, gib, print_findings, without_home


def test_findings_are_wrapped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    long = "word " * 30
    print_findings(
        {
            "First": [Finding("jax", "0.10"), Finding("text", long, PROBLEM, "do " * 30)],
            "Second": [Finding("ray", "[red]missing[/red]", NOTE)],
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1:3] == ["First", "  ok  jax: 0.10"]
    assert lines[3].startswith("  !!  text: word word")
    assert lines[4].startswith("      word word")
    advice = lines.index(next(line for line in lines if line.startswith("      -> do do")))
    assert lines[advice + 1].startswith("         do do")
    assert lines[-1] == "  --  ray: [red]missing[/red]"


def test_paths_and_sizes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert without_home("/home/someone/x and /tmp") == "~/x and /tmp"
    assert (gib(3 * 2**29), gib(2**20)) == ("1.5 GiB", "1 MiB")
