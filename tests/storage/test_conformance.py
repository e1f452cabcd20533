"""Every encoding of every format at every place: what a loader delivers is what xarray reads from a local copy.

The plain command takes one example of each encoding on disk, and each once more at another place, in turn. The campaign
takes all places, and several encodings in one file; ``EVERY=1`` takes many more examples.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conformance import Places, by_xarray, delivered, every, holds, opened
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from stored import CASES, FORMATS, KINDS, plan_for

REMOTE = Places.ALL[1:]
FEW = settings(
    max_examples=every(1, 30),
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=every(12, 120))


def cases(places):
    return [
        pytest.param(form, kind, where, id=f"{form}-{kind}-{where}")
        for number, (form, kind) in enumerate(CASES)
        for where in places(number)
    ]


@contextlib.contextmanager
def folder():
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def written(form, plan, where):
    """Write a plan; returns the file, what xarray reads from it, and how it is opened."""
    path = FORMATS[form].write(plan, where)
    expected, options = None, {}
    for name in plan.ask:
        array = FORMATS[form].read(path, plan, name)
        inner = f"{plan.group}/{name}" if plan.group else name
        one = by_xarray(array, array.dims[plan.order.index(plan.time)], name=inner)
        expected = one if expected is None else expected + one
    if plan.by_name:
        options["variables"] = list(expected.features)
    if form == "hdf5" and plan.order != [plan.time, "station"]:  # its dimensions have no names
        options["axes"] = "".join("t" if dim == plan.time else "n" for dim in plan.order)
    return path, expected, options


def agrees(places, form, plan, *wheres):
    with folder() as here:
        path, expected, options = written(form, plan, here)
        for where in wheres:
            note(f"{form} at {where}: {plan.arrays()}, {plan.layout}, chunks {plan.chunks}")
            target, more = places.put(where, path)
            holds(target, expected, **options, **more)


@pytest.mark.parametrize(("form", "kind", "where"), cases(lambda number: ("disk", REMOTE[number % 3])))
@FEW
@given(data=st.data())
def test_equals_xarray(places, form, kind, where, data):
    agrees(places, form, plan_for(data.draw, form, KINDS[kind]), where)


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("form", "kind", "where"), cases(lambda number: (REMOTE[(number + 1) % 3], REMOTE[(number + 2) % 3]))
)
@FEW
@given(data=st.data())
def test_equals_xarray_at_the_other_places(places, form, kind, where, data):
    agrees(places, form, plan_for(data.draw, form, KINDS[kind]), where)


ALONE = {"dtypes", "packed", "packed_by_integers", "packed_floats", "one_mark", "packed_with_mark", "two_marks",
         "unsigned", "valid_range", "big_endian", "two_variables", "filters"}  # fmt: skip
SPACES = {"dimension_order", "grid", "labels", "packed_labels", "auxiliary"}
TIMES = {"time_units", "packed_times", "calendars", "float_days", "text_times", "zone_units", "no_times", "jumps",
         "auxiliary_time", "stored_datetimes"}  # fmt: skip
REST = set(KINDS) - ALONE - SPACES - TIMES


def mixed(draw, form):
    """Draw a plan of several kinds: one of space, of values, of times, and of how the file is laid out."""
    kinds = []
    for some in (SPACES, ALONE, TIMES, REST):
        fitting = sorted(name for name in some if KINDS[name] not in FORMATS[form].lacks)
        chosen = draw(st.sampled_from([None, *fitting]))
        if chosen is not None and (
            chosen != "auxiliary_time" or not any("auxiliary" in one for one in kinds)
        ):
            kinds.append(chosen)
    note(f"kinds: {kinds}")
    plan = plan_for(draw, form, *(KINDS[name] for name in kinds))
    plan.by_name = plan.by_name or "auxiliary" in kinds  # bounds of a time that another kind has replaced
    return plan


@pytest.mark.campaign
@pytest.mark.parametrize("form", FORMATS)
@MANY
@given(data=st.data())
def test_encodings_mixed(places, form, data):
    agrees(places, form, mixed(data.draw, form), data.draw(st.sampled_from(Places.ALL)))


def contents(series):
    """All that a series says and delivers, for comparison."""
    windows = series.clock and series.clock.fingerprint()
    labels = None if series.nodes is None else series.nodes.tolist()
    return series.features, series.space_shape, labels, windows, [one.dtype for one in series.variables]


@pytest.mark.parametrize("form", FORMATS)
@settings(FEW, max_examples=every(1, 60))
@given(data=st.data())
def test_the_same_bytes_are_the_same_series_everywhere(places, form, data):
    plan = mixed(data.draw, form)
    with folder() as here:
        path, expected, options = written(form, plan, here)
        if np.isnan(expected.values).any():
            options["missing"] = np.nan
        found = []
        for where in Places.ALL:
            target, more = places.put(where, path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with opened(target, segments=[0, plan.rows], **options, **more) as series:
                    found.append(contents(series))
                    delivered(series, expected)
        assert found[1:] == found[:1] * 3


OBJECTS = [
    pytest.param(form, kind, loaded, marks=[] if number % 4 == 0 else [pytest.mark.campaign])
    for number, (form, kind, loaded) in enumerate(
        (form, kind, loaded)
        for form, kind in CASES
        if form in ("netcdf4", "zarr3")
        for loaded in (False, True)
    )
]


@pytest.mark.parametrize(("form", "kind", "loaded"), OBJECTS)
@FEW
@given(data=st.data())
def test_an_object_of_xarray(form, kind, loaded, data):
    plan = plan_for(data.draw, form, KINDS[kind])
    with folder() as here, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, expected, options = written(form, plan, here)
        engine = {"engine": "h5netcdf"} if form == "netcdf4" else {"engine": "zarr", "chunks": None}
        with xr.open_dataset(path, group=plan.group or None, cache=False, **engine) as dataset:
            given_dataset = dataset.load() if loaded else dataset
            if plan.group:
                options["variables"] = plan.ask
                expected = type(expected)(expected.values, tuple(plan.ask), expected.times, expected.nodes)
            holds(given_dataset, expected, **options)
