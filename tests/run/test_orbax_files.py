import json

import numpy as np

from flaxres.run.orbax_files import digest


def test_digest_depends_on_values_shapes_dtypes_and_names():
    base = {"a": np.zeros(4, np.float32)}
    others = [
        {"a": np.array([0, 0, 0, 1e-30], np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"b": np.zeros(4, np.float32)},
    ]
    assert len({digest(tree) for tree in [base, *others]}) == 5
    assert digest(base) == digest({"a": np.zeros(4, np.float32)})
    assert json.dumps(digest(base))
