"""No NaN in silence: every way to rows against a NumPy model, which says what is delivered and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import windowloader as wl
from windowloader.errors import MissingDataError, ScalerError, WindowSpecError
from windowloader.sources.base import LocalSource

ROWS, NODES, LOOKBACK, HORIZON = 60, 3, 4, 2
SPAN = LOOKBACK + HORIZON


class Stored(LocalSource):
    """An array whose rows must be read, a few at a time."""

    def __init__(self, values):
        super().__init__("stored", shape=values.shape, dtype=values.dtype, axes="tnf", chunks=(9, NODES, 2))
        self.values = values

    def fingerprint(self):
        return hashlib.blake2b(self.values.tobytes(), digest_size=8).hexdigest()

    def _read(self, start, stop, out, box=None):
        out[...] = self.values[start:stop]
        return out.nbytes


@dataclass
class Case:
    values: np.ndarray  # [row, node, feature a | b]
    rain: np.ndarray  # by row
    height: np.ndarray  # by node
    missing: dict
    inputs: list
    targets: list
    future: list
    max_missing: float | None
    fill: float | None
    scaled: bool
    scale_targets: bool
    dtype: str
    broadcast: bool
    place: str

    def cells(self, name):
        """Raw values of a name by row and node, and what marks them missing."""
        if name == "height":
            return np.broadcast_to(self.height, (ROWS, NODES)), self.missing.get("height")
        if name == "rain":
            return np.repeat(self.rain[:, None], NODES, 1), self.missing.get("rain")
        return self.values[..., "ab".index(name)], self.missing.get("value")

    def gone(self, name):
        raw, mark = self.cells(name)
        if mark is None:
            return np.zeros(raw.shape, bool)
        return (raw == raw.dtype.type(mark)) | np.isnan(raw)

    def delivered(self, name, role):
        """What cells of a name become, before they are cast."""
        raw, _ = self.cells(name)
        found = raw.astype(np.float64)
        if self.scaled and name in "ab" and (role != "targets" or self.scale_targets):
            found = (found - 2.0) * (1.0 / 4.0)
        if self.fill is not None and self.max_missing is None:
            found = np.where(self.gone(name), self.fill, found)
        return found

    def roles(self):
        past, ahead = np.arange(LOOKBACK), LOOKBACK + np.arange(HORIZON)
        return {
            "inputs": (self.inputs, past),
            "targets": (self.targets, ahead),
            "future": (self.future, ahead),
        }

    def starts(self):
        """Windows that are left."""
        found = np.arange(ROWS - SPAN + 1)
        if self.max_missing is None:
            return found
        bad = np.zeros(len(found), bool)
        for names, offsets in self.roles().values():
            for name in names:
                bad |= self.gone(name)[found[:, None] + offsets].any(axis=(1, 2))
        return found[~bad]

    def batch(self, start, role):
        """One window of a role, [step, node, feature]."""
        names, offsets = self.roles()[role]
        return np.stack([self.delivered(name, role)[start + offsets] for name in names], -1)

    def refused(self, start):
        """Whether this window would hold NaN."""
        return any(
            np.isnan(self.batch(start, role)).any() for role, (names, _) in self.roles().items() if names
        )

    def windows(self, folder):
        if self.place == "mapped":
            np.save(folder / "values.npy", self.values)
            source = folder / "values.npy"
        else:
            source = Stored(self.values) if self.place == "stored" else self.values
        series = wl.open(
            {"value": source}, axes="tnf", features={"value": ["a", "b"]}, timestamps=("2024-01-01", "1h"),
            covariates={"rain": (self.rain[:, None], "tf"), "height": (self.height, "n")}, missing=self.missing,
        )  # fmt: skip
        spec = wl.WindowSpec(
            lookback=LOOKBACK, horizon=HORIZON, inputs=self.inputs, targets=self.targets, future=self.future,
            max_missing=self.max_missing,
        )  # fmt: skip
        return wl.WindowSet(series, spec)

    def options(self):
        scaler = wl.StandardScaler({"a": 2.0, "b": 2.0}, {"a": 4.0, "b": 4.0}) if self.scaled else None
        return {
            "scaler": scaler, "scale_targets": self.scale_targets, "fill": self.fill, "dtype": self.dtype,
            "broadcast": self.broadcast,
        }  # fmt: skip


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["float32", "float64", "float16"]))
    values = rng.integers(1, 9, (ROWS, NODES, 2)).astype(dtype)
    values[rng.random(values.shape) < 0.01] = np.inf
    rain, height = rng.integers(1, 9, ROWS).astype("float32"), rng.integers(1, 9, NODES).astype("float64")
    missing = {}
    for key, array in (("value", values), ("rain", rain), ("height", height)):
        mark = draw(
            st.sampled_from([None, None, 0.0, np.nan] if key != "height" else [None, None, None, np.nan])
        )
        if mark is not None:
            missing[key] = mark
            array[rng.random(array.shape) < 0.02] = mark
    for _ in range(draw(st.sampled_from([0, 1, 1, 3]))):
        where = draw(st.sampled_from(["value", "value", "value", "rain", "height"]))
        array = {"value": values, "rain": rain, "height": height}[where]
        if where != "height" or draw(st.sampled_from([False, False, False, True])):
            array[tuple(rng.integers(0, size) for size in array.shape)] = np.nan
    inputs = draw(
        st.sampled_from([["a"], ["a", "b"], ["b", "rain"], ["a", "height"], ["rain", "a", "height"]])
    )
    return Case(
        values=values,
        rain=rain,
        height=height,
        missing=missing,
        inputs=inputs,
        targets=draw(st.sampled_from([["a"], ["b"], ["a", "b"]])),
        future=draw(st.sampled_from([[], [], ["rain"]])),
        max_missing=draw(st.sampled_from([None, None, 0.0])),
        fill=draw(st.sampled_from([None, 0.0, -1.5])),
        scaled=draw(st.booleans()),
        scale_targets=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float64", "float16", "bfloat16"])),
        broadcast=draw(st.booleans()),
        place=draw(st.sampled_from(["memory", "mapped", "stored"])),
    )


def cast(values, dtype):
    """As delivered, in float64."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).double().numpy()
    return values.astype(dtype).astype(np.float64)


def numbers(array):
    """Values of any batch as float64."""
    if isinstance(array, np.ndarray) and array.dtype == np.uint16:  # bfloat16 by its bits
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.double().numpy() if hasattr(array, "double") else np.asarray(array).astype(np.float64)


def assert_equal(case, batch):
    """Hold a batch to the model: values and masks."""
    for role, (names, offsets) in case.roles().items():
        if not names:
            continue
        for place, name in enumerate(names):
            shared = not case.broadcast and role != "targets" and name == "rain"
            apart = [n for n in names if not case.broadcast and role != "targets" and n == "rain"]
            kept = [n for n in names if n not in apart]
            want = np.stack([case.batch(start, role)[..., place] for start in batch.starts])
            if shared:
                got = numbers(getattr(batch, f"shared_{role}"))[..., apart.index(name)]
                want = want[..., 0]
            else:
                got = numbers(getattr(batch, role))[..., kept.index(name)]
            np.testing.assert_array_equal(got, cast(want, case.dtype), err_msg=f"{role} {name}")
            assert not np.isnan(got).any()
            mask = getattr(
                batch, {"inputs": "input_mask", "targets": "target_mask", "future": "future_mask"}[role]
            )
            if mask is not None and not shared:
                seen = np.stack([~case.gone(name)[start + offsets] for start in batch.starts])
                np.testing.assert_array_equal(np.asarray(mask)[..., kept.index(name)], seen)


def loaded(windows, case, how, threads, shuffle):
    """Batches of five windows, by one of the ways that the package has."""
    options = case.options()
    if how == "read":
        for begin in range(0, len(windows), 5):
            yield windows.read(np.arange(begin, min(begin + 5, len(windows))), **options)
    elif how == "dataset":
        from windowloader.adapters.pytorch import WindowDataset

        dataset = WindowDataset(windows, **options)
        for begin in range(0, len(windows), 5):
            yield dataset.__getitems__(list(range(begin, min(begin + 5, len(windows))))).batch
    else:
        more = {"batch_size": 5, "threads": threads, "prefetch_batches": 1, "shuffle": shuffle, "seed": 3}
        if how == "loader":
            loader = wl.WindowLoader(windows, **more, **options)
        else:
            from windowloader.adapters.pytorch import TorchLoader

            memory = {"device": "all", "kept": 40 * SPAN * 5}[how]
            loader = TorchLoader(windows, device="cpu", device_memory=memory, **more, **options)
        with loader:
            yield from loader


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    cases(),
    st.sampled_from(["loader", "loader", "read", "dataset", "device", "kept"]),
    st.sampled_from([0, 2]),
    st.booleans(),
)
@pytest.mark.filterwarnings("ignore:rows .*gathered on the host")
def test_each_batch_is_the_models_or_refused(tmp_path_factory, case, how, threads, shuffle):
    if how in ("dataset", "device", "kept"):
        pytest.importorskip("torch")
    starts = case.starts()
    got, error = [], None
    try:
        windows = case.windows(tmp_path_factory.mktemp("nan"))
        np.testing.assert_array_equal(windows.starts(), starts)
        for batch in loaded(windows, case, how, threads, shuffle):
            assert_equal(case, batch)
            assert not any(case.refused(start) for start in batch.starts)
            got += list(batch.starts)
    except WindowSpecError:
        assert len(starts) == 0
        return
    except MissingDataError as found:
        error = found
    bad = [start for start in starts if case.refused(start)]
    event(f"{how}: {'refused' if error else 'delivered'}")
    if error is None:
        assert not bad
        assert sorted(got) == starts.tolist()
    elif "nothing says what a batch should hold" in str(
        error
    ):  # a declared NaN without a fill, before any is read
        assert case.fill is None
        assert np.isnan(list(case.missing.values())).any()
    else:
        assert bad, error


@st.composite
def meters(draw):
    """Entities of different lengths, some of which the part that is fitted on does not hold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = draw(st.lists(st.integers(1, 40), min_size=2, max_size=6))
    borders = np.concatenate(([0], np.cumsum(lengths)))
    values = rng.normal(5, 2, (borders[-1], 2)).astype("float32")
    missing = draw(st.sampled_from([None, np.nan]))
    if missing is not None:
        values[rng.random(values.shape) < 0.1] = np.nan
    return values, borders, missing


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(meters(), st.sampled_from([wl.StandardScaler, wl.MinMaxScaler, wl.RobustScaler]), st.data())
@pytest.mark.filterwarnings("ignore::windowloader.scaling.scalers.ScalerWarning")
def test_entities_that_were_not_fitted_are_refused_or_pooled(case, kind, data):
    values, borders, missing = case
    series = wl.Series(values, entities=borders, missing=missing)
    try:
        windows = wl.WindowSet(series, wl.WindowSpec(lookback=2, horizon=1))
    except WindowSpecError:
        return  # all are shorter than a window
    owner = windows.entities()
    seen = data.draw(st.sets(st.sampled_from(sorted(set(owner.tolist()))), min_size=1))
    train = windows.take(np.flatnonzero(np.isin(owner, list(seen))))
    fill = None if missing is None else 0.0
    held = np.isfinite(values[(train.row_counts(0, len(values), role="all") > 0)]).any()
    if not held:
        with pytest.raises(ScalerError, match="missing in every row"):
            kind.fit(train, per="entity", unseen="pooled")
        return
    whole, pooled = kind.fit(train), kind.fit(train, per="entity", unseen="pooled")
    assert (pooled.unseen, whole.unseen) == ("pooled", "raise")
    again = kind.from_json(pooled.to_json())
    assert again == pooled
    assert again.unseen == pooled["value"].unseen == "pooled"
    for name in kind.NAMES:
        every, own = getattr(whole, name), getattr(pooled, name)
        for entity in range(len(borders) - 1):
            rows = values[borders[entity] : borders[entity + 1]]
            if entity not in seen or np.isnan(rows).all():
                assert own[entity] == every, (name, entity)  # to the bit: those of per="feature"
    event("all seen" if set(owner.tolist()) == seen else "some unseen")
    with wl.WindowLoader(windows, batch_size=7, scaler=pooled, fill=fill, dtype="float64") as loader:
        for batch in loader:
            want = pooled.transform(values[batch.starts[:, None] + np.arange(2)][..., None].astype("float64"),
                                    entities=batch.entities)  # fmt: skip
            np.testing.assert_array_equal(batch.inputs, np.where(np.isnan(want), 0.0, want))
    if any(np.isnan(values[borders[entity] : borders[entity + 1]]).all() for entity in seen):
        return
    raising = kind.fit(train, per="entity")
    assert raising.unseen == "raise"
    assert "unseen" not in json.loads(raising.to_json())["options"]  # as 0.1.0 wrote it
    wl.WindowLoader(train, scaler=raising, fill=fill).close()
    unseen = np.flatnonzero(~np.isin(owner, list(seen)))
    if len(unseen):
        with pytest.raises(ScalerError, match=rf"{len(unseen)} of {len(windows)} windows.*unseen='pooled'"):
            wl.WindowLoader(windows, scaler=raising, fill=fill)
        with pytest.raises(ScalerError, match="no statistics for entity"):
            windows.read(unseen[:1], scaler=raising, fill=fill)
        windows.read(np.flatnonzero(np.isin(owner, list(seen)))[:3], scaler=raising, fill=fill)
