"""Keys and the keyed permutation against a slow reference, frozen numbers, and chance."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import time

import numpy as np
import pytest

from windowloader.errors import LoaderError
from windowloader.order import permutation
from windowloader.order.permutation import Permutation, Purpose, draw, key

U64 = 1 << 64


# The reference: order.md's words in plain integers, with the halves changing places as a textbook draws them.


def split_mix(state):
    while True:
        state = (state + 0x9E3779B97F4A7C15) % U64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % U64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % U64
        yield z ^ (z >> 31)


def words(k):
    generators = [split_mix(int(part)) for part in k]
    for generator in itertools.cycle(generators):
        yield next(generator)


def below(bound, source):
    while True:
        product = next(source) * bound
        if product % U64 >= U64 % bound:
            return product // U64


def mix_narrow(x):
    x ^= x >> 16
    x = x * 0x7FEB352D % (1 << 32)
    x ^= x >> 15
    return x * 0x846CA68B % (1 << 32)


def mix_wide(x):
    x ^= x >> 32
    x = x * 0xBF58476D1CE4E5B9 % U64
    x ^= x >> 29
    return x * 0x94D049BB133111EB % U64


def fisher_yates(n, k):
    numbers, source = list(range(n)), words(k)
    for i in reversed(range(1, n)):
        j = below(i + 1, source)
        numbers[i], numbers[j] = numbers[j], numbers[i]
    return numbers


def feistel(x, n, k, rounds=None):
    size, mix = (32, mix_narrow) if n <= 2**32 else (64, mix_wide)
    bits = max(2, (n - 1).bit_length())
    rounds = rounds or (8 if n <= 2**16 else 6)
    while True:
        widths = [bits // 2, bits - bits // 2]
        left, right = x >> widths[1], x % (1 << widths[1])
        for round_key in itertools.islice(words(k), rounds):
            mixed = mix((right + round_key) % (1 << size)) >> (size - widths[0])
            left, right = right, left ^ mixed
            widths.reverse()
        x = left << widths[1] | right
        if x < n:
            return x


def reference(positions, n, k):
    if n <= 4096:
        table = fisher_yates(n, k)
        return [table[p] for p in positions]
    return [feistel(p, n, k) for p in positions]


SIZES = [
    1,
    2,
    3,
    4095,
    4096,
    4097,
    2**16 - 1,
    2**16,
    2**16 + 1,
    2**20 - 1,
    2**20,
    10**8,
    2**32,
    2**32 + 1,
    2**63 - 1,
]


def some(n):
    return sorted({p for p in (0, 1, 2, 3, n // 3, n // 2, n - 2, n - 1) if 0 <= p < n})


@pytest.mark.parametrize("n", SIZES)
def test_equals_the_reference(n):
    for seed in (0, 1, 2**128 - 1):
        k = key(seed, epoch=3, purpose=Purpose.TURN, lane=2, index=9)
        positions = some(n) + [int(p) for p in np.random.default_rng(0).integers(0, n, 40)]
        assert Permutation(n, k)(positions).tolist() == reference(positions, n, k)


# Frozen: these numbers are a promise to everybody who resumes a run under a later release.
GOLDEN_KEY = [6627544580591026495, 941998624708065212, 11149544388024907218, 13311240524018341496]
GOLDEN_KEY_LAST = [6547294703071271883, 2594847813136478048, 6411935168406097177, 14021815550864970104]
GOLDEN_DRAWS = [0, 1, 872, 872142966324, 8044099047734360777]
GOLDEN = {
    1: ([0], "374708fff7719dd5"),
    2: ([1, 0], "af8a44699e0fe2cb"),
    3: ([2, 1, 0], "2ecda99caa58af09"),
    4095: ([2577, 3110, 1904, 3640, 399, 3939, 2369, 881], "d90560f049d5df01"),
    4096: ([2013, 3009, 477, 1884, 1100, 3940, 2369, 881], "59d3b11244d8d3a4"),
    4097: ([3593, 965, 3188, 1745, 1888, 2411, 1553, 1789], "1a297faf8ba6b0da"),
    65535: ([11083, 34212, 12878, 22579, 58249, 8380, 39185, 15924], "d8ef51bcf577724f"),
    65536: ([11083, 34212, 12878, 22579, 58249, 54419, 15924, 20045], "05ec6ca1aaa135c0"),
    65537: ([24212, 62410, 37120, 26459, 63651, 7331, 25399, 55109], "8360012a1b54bc1f"),
    100000000: (
        [54445131, 47245704, 95642898, 73787592, 11365200, 72902854, 14243446, 23312842],
        "0a2b8fef4c9bff3b",
    ),
    4294967296: (
        [931400450, 37857382, 2968657931, 2105902455, 421347093, 2153343748, 193924335, 1442815292],
        "a47ac420ef020180",
    ),
    4294967297: (
        [3604199581, 346834524, 3529419303, 3737859353, 1640173431, 2881875913, 148051848, 3930089388],
        "f1e5221c4bcd62c7",
    ),
}


def fingerprint(n):
    """The first 20,000 numbers and the last 1,000, as little-endian int64."""
    count = min(n, 20_000)
    positions = np.concatenate([np.arange(count), np.arange(max(0, n - 1000), n)])
    k = key(0, epoch=0, purpose=Purpose.GLOBAL)
    return hashlib.sha256(Permutation(n, k)(positions).astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("n", sorted(GOLDEN))
def test_golden_vectors(n):
    numbers, digest = GOLDEN[n]
    assert Permutation(n, key(0, epoch=0, purpose=Purpose.GLOBAL))(some(n)).tolist() == numbers
    assert fingerprint(n) == digest


def test_golden_keys():
    assert key(0, epoch=0, purpose=0).tolist() == GOLDEN_KEY
    assert key(2**128 - 1, epoch=7, purpose=5, lane=3, index=2**32 - 1).tolist() == GOLDEN_KEY_LAST
    assert [draw(n, key(0, epoch=0, purpose=1)) for n in (1, 2, 1000, 10**12, 2**63 - 1)] == GOLDEN_DRAWS


def test_purposes_never_change_their_numbers():
    assert {p.name: int(p) for p in Purpose} == {
        "GLOBAL": 0, "ROTATION": 1, "RUN_START": 2, "ROUND": 3, "SPREAD": 4, "TURN": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "n", [*range(65), 1000, 4095, 4096, 4097, 5000, 8191, 8192, 8193, 2**16, 2**16 + 1, 300_000]
)
def test_is_a_bijection(n):
    for seed in range(3):
        numbers = Permutation(n, key(seed, epoch=1, purpose=0))(np.arange(n))
        assert np.array_equal(np.sort(numbers), np.arange(n))


def test_wide_words_are_a_bijection():
    """Above 2^32 nobody can count them all, so distinct positions must give distinct numbers in range."""
    for n in (2**32, 2**32 + 1, 2**40 - 5):
        positions = np.unique(np.random.default_rng(1).integers(0, n, 200_000))
        numbers = Permutation(n, key(5, epoch=0, purpose=0))(positions)
        assert len(np.unique(numbers)) == len(positions)
        assert numbers.min() >= 0
        assert numbers.max() < n


def test_shapes_order_and_read_only_positions():
    permutation = Permutation(10_000, key(0, epoch=0, purpose=0))
    everything = permutation(np.arange(10_000))
    assert permutation(7).shape == ()
    assert permutation(7) == everything[7]
    assert permutation([]).shape == (0,)
    positions = np.arange(9999, -1, -1).reshape(100, 100)[:, ::3]
    assert np.array_equal(permutation(positions), everything[positions])
    frozen = np.arange(20)
    frozen.flags.writeable = False
    assert np.array_equal(permutation(frozen), everything[:20])
    assert np.array_equal(pickle.loads(pickle.dumps(permutation))(frozen), everything[:20])


@pytest.mark.parametrize("n", [0, 1, 100, 4096, 4097, 10**8, 2**32 + 1])
@pytest.mark.parametrize("bad", [-1, "n", 2**62])
def test_positions_outside_are_refused(n, bad):
    bad = n if bad == "n" else bad
    positions = [*some(n), bad]
    with pytest.raises(IndexError, match=f"position {bad} is outside the permutation of {n} numbers"):
        Permutation(n, key(0, epoch=0, purpose=0))(positions)


@pytest.mark.parametrize("n", [2**16 + 1, 100_000, 2**20 - 1])
def test_small_networks_by_numpy_are_the_compiled_ones(monkeypatch, n):
    network = Permutation(n, key(3, epoch=0, purpose=0))
    positions = np.random.default_rng(n).permutation(n)[:30_000]
    found = network(positions)
    monkeypatch.setattr(permutation, "CALLS", 0)
    assert np.array_equal(network(positions), found)


def test_a_word_that_is_drawn_again_is_left_out():
    k = np.array([U64 - 0x9E3779B97F4A7C15, 5, 6, 7], np.uint64)  # its first word is 0
    assert next(words(k)) == 0
    for n in (3, 1000, 4095):
        assert Permutation(n, k)(np.arange(n)).tolist() == fisher_yates(n, k)


def test_arguments_outside_their_range_are_refused():
    k = key(0, epoch=0, purpose=0)
    for seed in (-1, 2**128):
        with pytest.raises(LoaderError, match="seed"):
            key(seed, epoch=0, purpose=0)
    for part in ({"epoch": -1}, {"epoch": 2**32}, {"epoch": 0, "lane": 2**32}, {"epoch": 0, "index": -1}):
        with pytest.raises(LoaderError, match=r"2\*\*32"):
            key(0, purpose=0, **part)
    for n in (-1, 2**63):
        with pytest.raises(LoaderError, match=str(n)):
            Permutation(n, k)
    for n in (0, 2**63):
        with pytest.raises(LoaderError, match=str(n)):
            draw(n, k)
    with pytest.raises(TypeError):
        key(1.5, epoch=0, purpose=0)


def test_keys_differ_wherever_an_argument_does():
    """NumPy's own folding makes [5] and [5, 0] one key; here every neighbour is another."""
    parts = itertools.product((0, 1, 5, 2**32, 5 * 2**32, 2**127), (0, 1, 5), (0, 1), (0, 1), (0, 1, 5))
    keys = {tuple(key(s, epoch=e, purpose=p, lane=lane, index=i)) for s, e, p, lane, i in parts}
    assert len(keys) == 6 * 3 * 2 * 2 * 3


def test_keys_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        key(0, epoch=0, purpose=0)[0] = 1


# Chance. Seeds are fixed, so each of these passes or fails for good; bounds are at about 1 in 1,000.


def chi_square(values, n, bins):
    """Statistic of ``values`` in [0, n) over bins of nearly equal width; expectation bins − 1."""
    borders = np.ceil(np.arange(bins + 1) * n / bins)
    expected = np.diff(borders) * len(values) / n
    found = np.histogram(values, borders)[0]
    return float(((found - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("n", [5000, 9000])
@pytest.mark.parametrize("keys", [2000, 20_000])
def test_where_the_first_element_goes_is_uniform(monkeypatch, n, keys):
    monkeypatch.setattr(permutation, "TABLE", 0)  # a table of all for one number
    monkeypatch.setattr(permutation, "CALLS", 0)
    first = np.array([Permutation(n, key(seed, epoch=0, purpose=0))(0) for seed in range(keys)])
    assert chi_square(first, n, 50) < 85.4  # χ² of 49 degrees of freedom


@pytest.mark.parametrize("n", [5000, 9000])
def test_that_test_would_see_a_network_of_two_rounds(n):
    first = np.array([feistel(0, n, key(seed, epoch=0, purpose=0), rounds=2) for seed in range(20_000)])
    assert chi_square(first, n, 50) > 150


@pytest.mark.parametrize("n", [1000, 5000, 9000])
def test_fixed_points_are_poisson(n):
    numbers = np.arange(n)
    fixed = [
        int((Permutation(n, key(seed, epoch=0, purpose=0))(numbers) == numbers).sum()) for seed in range(2000)
    ]
    assert abs(np.mean(fixed) - 1) < 3.3 / np.sqrt(2000)
    assert abs(np.var(fixed) - 1) < 3.3 * np.sqrt(
        3 / 2000
    )  # variance of a Poisson sample variance is about 3/k


@pytest.mark.parametrize("n", [4096, 5000, 9000, 10**6])
def test_neighbours_are_uncorrelated(n):
    for seed in range(5):
        numbers = Permutation(n, key(seed, epoch=0, purpose=0))(np.arange(n)).astype(float)
        for lag in (1, 2, 64):
            assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 4 / np.sqrt(n)
        assert abs(np.abs(np.diff(numbers)).mean() / n - 1 / 3) < 1 / np.sqrt(n)


def test_epochs_are_unrelated():
    """The same position in consecutive epochs, over all positions."""
    n = 100_000
    epochs = [Permutation(n, key(0, epoch=e, purpose=0))(np.arange(n)).astype(float) for e in range(6)]
    for one, other in itertools.combinations(epochs, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(n)


def test_small_shuffles_are_uniform():
    found = [tuple(Permutation(4, key(seed, epoch=0, purpose=0))(range(4)).tolist()) for seed in range(6000)]
    index = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    assert chi_square(np.array([index[order] for order in found]), 24, 24) < 49.8


def test_draws_are_uniform():
    found = np.array([draw(7, key(seed, epoch=0, purpose=1)) for seed in range(7000)])
    assert chi_square(found, 7, 7) < 22.5


@pytest.mark.campaign
def test_an_index_costs_a_third_of_storing_one():
    """Where NumPy's stored permutation takes 57 to 67 ns an index, this is the bound of 20 ns at 10^8."""
    count, n = 1 << 22, 10**8
    permutation = Permutation(n, key(0, epoch=0, purpose=0))
    positions = np.arange(count)
    permutation(positions)

    def fastest(work, times=5):
        taken = []
        for _ in range(times):
            begin = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begin)
        return min(taken)

    large = 1 << 26  # 512 MiB: no cache holds it
    stored = fastest(lambda: np.random.default_rng(0).permutation(large), times=1) / large
    assert fastest(lambda: permutation(positions)) / count * 3 < stored
    batches = positions.reshape(-1, 64)[:5000]
    assert fastest(lambda: [permutation(batch) for batch in batches]) / (5000 * 64) < 3 * stored
