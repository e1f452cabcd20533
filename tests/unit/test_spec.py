"""What a spec refuses, in which words, and the arithmetic it gives."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import windowloader as wl
from windowloader.errors import WindowSpecError

GOOD = {"lookback": 12, "horizon": 12}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"lookback": 12, "horizon": 12, "delay": -1},
            r"delay must be an integer >= 0, got -1.*input_offsets",
        ),
        ({"lookback": 12, "horizon": 12, "stride": 0}, r"stride must be an integer >= 1, got 0"),
        ({"lookback": 12, "horizon": 12, "dilation": 0}, r"dilation must be an integer >= 1, got 0"),
        ({"lookback": 0, "horizon": 12}, r"lookback must be an integer >= 1, got 0"),
        ({"lookback": 12, "horizon": -1}, r"horizon must be an integer >= 0, got -1"),
        ({"lookback": 2.5, "horizon": 1}, r"lookback must be an integer >= 1, got 2.5"),
        ({"lookback": True, "horizon": 1}, r"lookback must be an integer >= 1, got True"),
        ({"horizon": 12}, r"neither lookback nor input_offsets is given"),
        ({"lookback": 12}, r"neither horizon nor target_offsets is given.*horizon=0 for inference"),
        ({**GOOD, "input_offsets": (-1, 0)}, r"lookback=12 and input_offsets=\(-1, 0\) are both given"),
        ({**GOOD, "target_offsets": (1, 2)}, r"horizon=12 and target_offsets=\(1, 2\) are both given"),
        ({"input_offsets": (0, -1), "horizon": 1}, r"input_offsets must be rising integers.*got \(0, -1\)"),
        ({"input_offsets": (-1, -1), "horizon": 1}, r"must be rising integers.*got \(-1, -1\)"),
        ({"input_offsets": (), "horizon": 1}, r"input_offsets must be rising integers.*got \(\)"),
        ({"input_offsets": (-1, 0, 1), "horizon": 1}, r"reads row \+1, after the last observed row.*future="),
        ({"input_offsets": ("a",), "horizon": 1}, r"must be rising integers.*got \('a',\)"),
        ({"lookback": 2, "target_offsets": (1,), "delay": 3}, r"delay=3 shifts a horizon"),
        ({"input_offsets": (0,), "target_offsets": (1,), "dilation": 2}, r"dilation=2 spreads the steps"),
        ({**GOOD, "targets": ["a"], "future": ["a"]}, r"\['a'\] are both targets and future"),
        ({**GOOD, "inputs": ["a", "b", "a"]}, r"inputs must be names, each once, got \('a', 'b', 'a'\)"),
        ({**GOOD, "inputs": []}, r"inputs=\(\) reads nothing"),
        ({**GOOD, "inputs": [3]}, r"inputs must be names.*got \(3,\)"),
        ({"lookback": 3, "horizon": 0, "future": ["a"]}, r"horizon=0 has none.*targets=\(\)"),
        ({**GOOD, "on_missing": "drop"}, r"on_missing='drop' is unknown. Known are 'mask', 'raise'"),
        ({**GOOD, "graph": "all"}, r"graph='all' is unknown. Known are 'each', 'first', 'last'"),
        ({**GOOD, "short_segments": "no"}, r"short_segments='no' is unknown"),
        ({**GOOD, "max_missing": 1.5}, r"max_missing must be between 0.0 .* and 1.0, or None, got 1.5"),
        ({**GOOD, "max_missing": float("nan")}, r"got nan"),
    ],
)
def test_a_wrong_spec_is_refused_when_it_is_built(arguments, says):
    with pytest.raises(WindowSpecError, match=says):
        wl.WindowSpec(**arguments)


def test_dcrnn_offsets_are_lookback_and_horizon():
    plain = wl.WindowSpec(**GOOD)
    listed = wl.WindowSpec(input_offsets=range(-11, 1), target_offsets=np.arange(1, 13))
    for name in ("input_rows", "target_rows"):
        assert getattr(plain, name).tolist() == getattr(listed, name).tolist()
        assert getattr(plain, name).dtype == np.int64
    assert (plain.span, plain.anchor) == (listed.span, listed.anchor) == (24, 11)


def test_periodic_offsets_reach_back_from_the_last_observed_row():
    spec = wl.WindowSpec(input_offsets=(-2016, -288, 0), horizon=12)
    assert (spec.anchor, spec.span, spec.num_inputs, spec.num_targets) == (2016, 2029, 3, 12)
    assert spec.input_rows.tolist() == [0, 1728, 2016]
    assert spec.target_rows.tolist() == list(range(2017, 2029))


def test_inference_has_no_targets():
    spec = wl.WindowSpec(lookback=12, horizon=0)
    assert (spec.span, spec.anchor, spec.target_rows.tolist()) == (12, 11, [])


def test_delay_and_dilation_count_steps():
    spec = wl.WindowSpec(lookback=3, horizon=2, delay=2, dilation=4)
    assert (spec.input_rows.tolist(), spec.target_rows.tolist(), spec.span) == ([0, 4, 8], [20, 24], 25)


def test_names_may_come_alone_and_specs_are_values():
    spec = wl.WindowSpec(**GOOD, inputs="speed", targets=["speed"], future=["time_of_day"])
    assert (spec.inputs, spec.targets, spec.future) == (("speed",), ("speed",), ("time_of_day",))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))


def test_the_hash_tells_specs_apart_and_stays_the_same():
    specs = [wl.WindowSpec(**GOOD), wl.WindowSpec(**GOOD, stride=2), wl.WindowSpec(**GOOD, inputs=["a"])]
    assert len({spec.hash() for spec in specs}) == 3
    assert wl.WindowSpec(lookback=np.int64(12), horizon=12, max_missing=np.float32(0)).hash() == (
        wl.WindowSpec(**GOOD, max_missing=0).hash()
    )
    assert wl.WindowSpec(**GOOD).hash() == "2038aa0232013e61"
