from flaxres.experiments.sweeps.estimate import makespan


def test_makespan():
    # Two workers: 5 and 4 start first, then 3 on the second (7), 2 on the first (7), 1 on either.
    assert makespan([5, 4, 3, 2, 1], 2) == 8
    assert makespan([5, 4, 3], 1) == 12
    assert makespan([5, 4, 3], 10) == 5
    assert makespan([5, 4, 3], None) == 5
