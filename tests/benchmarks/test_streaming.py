import pytest

from benchmarks.report import Spread
from flaxres.errors import UserError


def test_stream_faster_than_decoding_is_an_error(isolated_flags):
    from benchmarks.streaming import check_ratio

    check_ratio(Spread(0.96, 0.93, 1.03))
    with pytest.raises(UserError, match="other programs used the cores"):
        check_ratio(Spread(2.95, 2.61, 2.97))
