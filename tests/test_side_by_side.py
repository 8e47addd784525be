"""How the tests share the machine: what stays together, and that a whole machine is whole."""

import threading
import time

import pytest

from tests import side_by_side
from tests.side_by_side import Machine, share, together


def test_what_has_something_in_common_is_one():
    found = together([{"a"}, {"b"}, {"c", "d"}, {"a", "c"}, {"e"}])
    assert sorted(map(sorted, found)) == [["a", "c", "d"], ["b"], ["e"]]


@pytest.mark.parametrize(
    ("everything", "count", "expected"),
    [
        ({0, 1}, 2, [{0}, {1}]),
        ({2, 3, 6, 7, 8}, 2, [{2, 6, 8}, {3, 7}]),
        ({5}, 2, [{5}, {5}]),  # more processes than processors
    ],
)
def test_processors_are_shared_out(everything, count, expected):
    assert [share(everything, number, count) for number in range(count)] == expected


def test_who_has_the_whole_machine_is_alone(tmp_path, monkeypatch):
    """Two want it at once, and others come and go: nobody waits for ever, and none meets them."""
    monkeypatch.setattr(side_by_side, "keep_to", lambda chosen: None)
    for name in side_by_side.FILES:
        (tmp_path / name).touch()
    here, seen = [], []

    def test(whole: bool) -> None:
        machine = Machine(set(), set(), tmp_path)
        for _ in range(20):
            with machine.part():
                here.append(whole)
                time.sleep(0.001)
                here.remove(whole)
                if whole:
                    with machine.whole():
                        time.sleep(0.002)
                        seen.append(list(here))

    threads = [threading.Thread(target=test, args=[n < 2], daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [[]] * 40
