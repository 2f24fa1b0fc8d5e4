import jax

from flaxres.data.notices import print_notice


def test_a_notice_is_printed_once_and_in_the_main_process_only(capsys, monkeypatch):
    for _ in range(2):
        print_notice("notice of a\n[red] test")
    assert capsys.readouterr().err == "notice of a\\n[red] test\n"
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    print_notice("another notice of a test")
    assert capsys.readouterr().err == ""
