from flaxres.errors import counted, print_lines, printable


def test_control_characters_and_other_bytes_are_escaped():
    assert printable("café [red] 猫.jpg") == "café [red] 猫.jpg"
    assert printable("a\n\x1b[31m\u202eb\udce9") == r"a\n\x1b[31m\u202eb\udce9"


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
