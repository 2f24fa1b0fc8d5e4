from flaxres.errors import printable


def test_control_characters_and_other_bytes_are_escaped():
    assert printable("café [red] 猫.jpg") == "café [red] 猫.jpg"
    assert printable("a\n\x1b[31m\u202eb\udce9") == r"a\n\x1b[31m\u202eb\udce9"
