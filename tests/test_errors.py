import unicodedata

from flaxres.errors import counted, print_lines, printable


def test_control_characters_and_other_bytes_are_escaped():
    assert printable("café [red] 猫.jpg") == "café [red] 猫.jpg"
    assert printable("a\n\x1b[31m\u202eb\udce9") == r"a\n\x1b[31m\u202eb\udce9"


def test_visible_text_is_kept_on_one_line():
    family = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
    for text in ("a\N{NO-BREAK SPACE}b", "猫\N{IDEOGRAPHIC SPACE}犬", family, "\u2764\ufe0f"):
        assert printable(text) == text
    escaped = ("Cc", "Cf", "Cs", "Zl", "Zp")
    others = [char for char in map(chr, range(0x110000)) if unicodedata.category(char) in escaped]
    others.remove("\u200d")
    assert printable("".join(others)).isascii()
    spaces = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c) == "Zs")
    assert printable(spaces) == spaces
    assert len(f"a{spaces}\u200d.".splitlines()) == 1


def test_results_are_one_line_each(capsys):
    print_lines(["test_error_a\x1b[2J\u2028b: 5", "test_error_c: 7"])
    assert capsys.readouterr().out == "test_error_a\\x1b[2J\\u2028b: 5\ntest_error_c: 7\n"


def test_numbers_with_nouns():
    assert [counted(number, "core") for number in (0, 1, 2000)] == [
        "0 cores",
        "1 core",
        "2,000 cores",
    ]
    assert counted(1, "process", "processes") == "1 process"
    assert counted(2, "process", "processes") == "2 processes"
