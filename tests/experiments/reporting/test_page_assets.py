import base64
import hashlib
import re

from flaxres.experiments.reporting import page_assets


def test_vendored_files_are_those_that_the_readme_names():
    directory = page_assets.DIRECTORY / "vendor"
    rows = re.findall(
        r"^\| (\S+) \| .* \| `(\w{64})` \|$", (directory / "README.md").read_text(), re.M
    )
    assert len(rows) == 2
    for name, digest in rows:
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest


def test_policy_allows_only_the_scripts_of_the_page():
    policy = page_assets.content_security_policy(["let a = 1;"])
    digest = base64.b64encode(hashlib.sha256(b"let a = 1;").digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy


def test_scripts_and_styles_cannot_end_their_element():
    assert not any("</script" in script.lower() for script in page_assets.read_scripts())
    assert "</style" not in page_assets.read_styles().lower()
    assert "--" not in page_assets.read_license()
