"""The gather against ten lines of NumPy, to the bit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from windowloader.batch.recipe import Recipe
from windowloader.errors import MissingDataError
from windowloader.rows.strided import Rows

SOURCES = [
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "float16",
    "float32",
    "float64",
]
# each pair compiles loops of its own: these few in the plain run, all of them in a campaign
FEW = {
    "float32": ["float32", "int16", "bool"],
    "float64": ["float64", "int64"],
    "float16": ["float16"],
    "bfloat16": ["float32"],
}
ALL = dict.fromkeys(FEW, SOURCES)
LAYOUTS = ["btnf", "btfn", "bfnt", "bntf", "tbnf", "fntb", "nbtf"]


@dataclass(frozen=True)
class Column:
    name: str
    variable: int
    feature: int


@dataclass(frozen=True)
class Affine:
    shift: np.ndarray
    factor: np.ndarray
    divide: bool


class Clock:
    """Two clocks whose values are plain functions of the row."""

    def timestamps(self, rows):
        return rows.astype("datetime64[D]")

    def texts(self, rows):
        return [f"day {row}" for row in rows]

    def values(self, names, rows):
        return np.stack(
            [{"time_of_day": rows % 7 / 7, "day_of_week": rows // 7 % 7 * 1.0}[n] for n in names], -1
        )


class Variable:
    def __init__(self, base, missing, has_time, has_nodes):
        self.base, self.missing, self.has_time, self.has_nodes = base, missing, has_time, has_nodes
        self.num_features, self.num_nodes, self.dtype = base.shape[2], base.shape[1], base.dtype

    def view(self):
        return self.base


@dataclass
class Case:
    variables: list
    names: list
    roles: dict
    offsets: dict
    starts: np.ndarray
    affines: dict
    fill: float | None
    dtype: str
    layout: str
    broadcast: bool
    nodes: int
    borders: np.ndarray | None

    def column(self, name):
        if name in ("time_of_day", "day_of_week"):
            return Column(name, -1, 0)
        variable, feature = map(int, name[1:].split("."))
        return Column(name, variable, feature)

    def series(self):
        return SimpleNamespace(
            num_steps=45, variables=tuple(self.variables), num_nodes=self.nodes,
            space_shape=(self.nodes,), clock=Clock(), nodes=None,
            entity_borders=self.borders, columns=lambda names: tuple(self.column(name) for name in names),
        )  # fmt: skip

    def spec(self):
        return SimpleNamespace(
            inputs=self.roles["inputs"], targets=self.roles["targets"], future=self.roles["future"],
            input_rows=self.offsets["inputs"], target_rows=self.offsets["targets"],
            num_targets=len(self.offsets["targets"]), max_missing=None, on_missing="mask",
        )  # fmt: skip

    def recipe(self):
        scaler = SimpleNamespace(affine=self.affines.get) if self.affines else None
        return Recipe.compile(
            self.series(), self.spec(), scaler=scaler, fill=self.fill, dtype=self.dtype, layout=self.layout,
            broadcast=self.broadcast,
        )  # fmt: skip


def to_dtype(values, dtype):
    """Rounded once; bfloat16 by torch itself."""
    if dtype == "bfloat16":
        torch = pytest.importorskip("torch")
        words = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).view(torch.int16)
        # the bits of torch's NaN differ from processor to processor
        return np.where(np.isnan(values), np.uint16(0x7FC0), words.numpy().view(np.uint16))
    return values.astype(dtype)


def model(case, name):
    """Delivered values and mask of one column in a role's rows, shape (batch, step, node)."""

    def of(rows):
        if case.column(name).variable < 0:
            values = Clock().values([name], rows)[..., 0][..., None]
            return to_dtype(np.repeat(values, case.nodes, -1), case.dtype), np.ones(
                (*rows.shape, case.nodes), bool
            )
        column = case.column(name)
        variable = case.variables[column.variable]
        raw = variable.base[rows if variable.has_time else rows * 0][..., column.feature]
        gone = np.zeros(raw.shape, bool)
        if variable.missing is not None:
            gone = (raw == np.array(variable.missing).astype(raw.dtype)) | (raw != raw)
        values = raw.astype(np.float64)
        affine = case.affines.get(name) if variable.has_time else None
        if affine is not None:
            entity = (
                np.searchsorted(case.borders, case.starts, side="right") - 1
                if len(affine.shift) > 1
                else case.starts * 0
            )
            shift, factor = affine.shift[entity][:, None], affine.factor[entity][:, None]
            values = (values - shift) / factor if affine.divide else (values - shift) * factor
        if case.fill is not None:
            values = np.where(gone, case.fill, values)
        shape = (*rows.shape, case.nodes)
        return to_dtype(np.ascontiguousarray(np.broadcast_to(values, shape)), case.dtype), ~np.broadcast_to(
            gone, shape
        )

    return of


def shared(case, name):
    column = case.column(name)
    return column.variable < 0 or not case.variables[column.variable].has_nodes


def expected(case):
    """Every array of the batch, from `model`."""
    found = {}
    for role, names in case.roles.items():
        rows = case.starts[:, None] + case.offsets["inputs" if role == "inputs" else "targets"]
        apart = [n for n in names if not case.broadcast and role != "targets" and shared(case, n)]
        kept = [n for n in names if n not in apart]
        mask = {"inputs": "input_mask", "targets": "target_mask", "future": "future_mask"}[role]
        if kept:
            found[role] = np.stack([model(case, n)(rows)[0] for n in kept], -1)
            if any(
                case.column(n).variable >= 0 and case.variables[case.column(n).variable].missing is not None
                for n in kept
            ):
                found[mask] = np.stack([model(case, n)(rows)[1] for n in kept], -1)
        if apart:
            found["shared_" + role] = np.stack([model(case, n)(rows)[0][..., 0] for n in apart], -1)
    return found


@st.composite
def bases(draw, rows, nodes, sources):
    """An array [row, node, feature] of some dtype, strides and missing marker."""
    dtype = np.dtype(draw(st.sampled_from(sources)))
    features = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.kind == "b":
        values = rng.integers(0, 2, (rows, nodes, features)).astype(bool)
    elif dtype.kind == "f":
        values = (rng.standard_normal((rows, nodes, features)) * 10.0 ** rng.integers(-6, 5)).astype(dtype)
    else:
        info = np.iinfo(dtype)
        values = rng.integers(info.min, info.max, (rows, nodes, features), dtype=dtype, endpoint=True)
    missing = draw(
        st.sampled_from(
            [None, float(values[0, 0, 0]), 0.0, float("nan")] if dtype.kind == "f" else [None, 0.0]
        )
    )
    if missing is not None:
        gone = rng.random(values.shape) < 0.3
        values[gone] = dtype.type(missing)
    if dtype.kind == "f":
        values[rng.random(values.shape) < 0.01] = np.inf * rng.choice([-1, 1])
        values[rng.random(values.shape) < draw(st.sampled_from([0, 0, 0.001, 0.1]))] = np.nan
    kind = draw(st.sampled_from(["plain", "plain", "moved", "reversed", "sliced", "structured", "readonly"]))
    if kind == "moved":
        values = np.ascontiguousarray(values.transpose(2, 1, 0)).transpose(2, 1, 0)
    elif kind == "reversed":
        values = np.ascontiguousarray(values[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    elif kind == "sliced":
        wide = np.zeros((rows * 2, nodes + 3, features * 2), dtype)
        wide[::2, 1 : nodes + 1, ::2] = values
        values = wide[::2, 1 : nodes + 1, ::2]
    elif kind == "structured":
        records = np.zeros(values.shape, [("pad", "u1"), ("x", dtype)])
        records["x"] = values
        values = records["x"]
    elif kind == "readonly":
        values.flags.writeable = False
    return values, missing


@st.composite
def affine(draw, nodes, entities):
    shape = (draw(st.sampled_from([1, entities])), draw(st.sampled_from([1, nodes])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Affine(
        rng.standard_normal(shape), 0.1 + rng.random(shape), draw(st.sampled_from([False, False, True]))
    )


@st.composite
def cases(draw, words):
    dtype = draw(st.sampled_from(list(words)))
    nodes = draw(st.sampled_from([1, 2, 3, 17, 33, 1030]))
    span = draw(st.integers(2, 14))
    rows = span + draw(st.integers(1, 30 if nodes < 100 else 4))
    entities = draw(st.sampled_from([1, 3])) if rows > 6 else 1
    offsets = {
        role: draw(
            st.one_of(
                st.builds(np.arange, st.integers(0, span // 2), st.integers(span // 2 + 1, span)),
                st.sets(st.integers(0, span - 1), min_size=1).map(
                    lambda found: np.array(sorted(found), np.int64)
                ),
            )
        )
        for role in ("inputs", "targets")
    }
    variables, names = [], []
    for number in range(draw(st.integers(1, 3))):
        has_time = number == 0 or draw(st.booleans())
        has_nodes = number == 0 or draw(st.booleans())
        base, missing = draw(bases(rows if has_time else 1, nodes if has_nodes else 1, words[dtype]))
        variables.append(Variable(base, missing, has_time, has_nodes))
        names += [f"v{number}.{feature}" for feature in range(base.shape[2])]
    chosen = st.lists(st.sampled_from([*names, "time_of_day", "day_of_week"]), min_size=1, unique=True)
    own = [name for name in names if name.startswith("v0")]
    inputs = draw(
        st.one_of(
            chosen, st.sampled_from([own, [own[0], "time_of_day"], ["day_of_week", own[0], "time_of_day"]])
        )
    )
    targets = draw(st.one_of(chosen, st.just(own)))
    future = [name for name in draw(chosen) if name not in targets]
    affines = {}
    if draw(st.booleans()):
        for name in names:
            number = int(name[1])
            if variables[number].has_time and draw(st.booleans()):
                affines[name] = draw(affine(nodes if variables[number].has_nodes else 1, entities))
    needs_fill = any(v.missing is not None and np.isnan(v.missing) for v in variables)
    roles = {"inputs": inputs, "targets": targets, "future": future}
    scaled = [n for n in inputs + targets + future if n[0] == "v" and variables[int(n[1])].has_time]
    if scaled and not any(name in affines for name in scaled):
        affines = {}
    return Case(
        variables=variables,
        names=names,
        roles=roles,
        offsets=offsets,
        starts=np.array(draw(st.lists(st.integers(0, rows - span), min_size=1, max_size=6)), np.int64),
        affines=affines,
        fill=draw(st.sampled_from([0.0, -1.5] if needs_fill else [None, 0.0, 0.3])),
        dtype=dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        broadcast=draw(st.booleans()),
        nodes=nodes,
        borders=np.array([0, rows // 3, rows // 2, rows]) if entities == 3 else None,
    )


def run(case, parts):
    recipe = case.recipe()
    fields = recipe.fields(len(case.starts))
    out = {field.name: np.empty(field.shape, field.dtype) for field in fields}
    for array in out.values():
        array.view(np.uint8)[...] = 0xAB
    rows = [Rows(case.variables[index].base, case.starts) for index in recipe.variables]
    cuts = np.linspace(0, len(case.starts), parts + 1).astype(int)
    for begin, end in itertools.pairwise(cuts):
        recipe.gather(out, case.starts, rows, begin=int(begin), end=int(end))
    return out


def unfilled(wanted):
    """Whether a batch would hold NaN; these cases are filled with numbers."""
    for name, array in wanted.items():
        if array.dtype == np.uint16 and not name.endswith("mask"):
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if np.isnan(array).any():
            return True
    return False


def check(case, parts):
    wanted = expected(case)
    if unfilled(wanted):
        event("refused")
        with pytest.raises(MissingDataError, match="is NaN"):
            run(case, parts)
        return
    found = run(case, parts)
    assert sorted(found) == sorted(wanted)
    for name, array in found.items():
        want = wanted[name]
        if array.ndim == 4 and not name.startswith("shared"):
            array = array.transpose([case.layout.index(letter) for letter in "btnf"])
        assert array.dtype == want.dtype
        if want.dtype.kind == "f":
            assert (np.signbit(array) == np.signbit(want)).all()
        np.testing.assert_array_equal(array, want, err_msg=name)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(FEW), st.integers(1, 3))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_array_is_that_of_the_model(case, parts):
    check(case, parts)


@pytest.mark.campaign
@pytest.mark.timeout(900)  # it compiles loops for every pair it draws
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(ALL), st.integers(1, 3))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_array_is_that_of_the_model_for_all_pairs_of_dtypes(case, parts):
    check(case, parts)
