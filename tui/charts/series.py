"""A curve of any length in bounded memory: buckets of neighbouring points, merged in pairs when there are too many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LARGEST = 1e100
"""What is not below it counts as not finite: no float32 is, and the sums of what is below stay finite."""
MOST = 4096
"""Buckets kept: more than any terminal has columns, twice over for zooming."""


@dataclass(slots=True)
class Bucket:
    """Neighbouring points seen as one."""

    first: float
    last: float
    low: float
    high: float
    total: float
    count: int

    @property
    def mean(self) -> float:
        return self.total / self.count

    def take(self, x: float, y: float) -> None:
        """One point more."""
        self.last = x
        if y < self.low:
            self.low = y
        elif y > self.high:
            self.high = y
        self.total += y
        self.count += 1

    def swallow(self, other: Bucket) -> None:
        self.last = other.last
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.count += other.count


class Series:
    """y over a rising x. Points that are not finite are counted and left out: they never reach the bounds."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.buckets: list[Bucket] = []
        self.size = 1
        """Points a full bucket has."""
        self.absent = 0
        """Points that were not finite."""
        self.latest: float | None = None

    def __len__(self) -> int:
        return sum(bucket.count for bucket in self.buckets)

    def add(self, x: float, y: float | None) -> None:
        """Append a point; one at or before the last x (a resumed run repeats steps) drops what it repeats."""
        if y is None or not abs(y) < LARGEST:
            self.absent += 1
            return
        tail = self.buckets[-1] if self.buckets else None
        if tail is not None and x <= tail.last:
            self._rewind(x)
            tail = self.buckets[-1] if self.buckets else None
        self.latest = y
        if tail is not None and tail.count < self.size:
            tail.take(x, y)
            return
        self.buckets.append(Bucket(x, x, y, y, y, 1))
        if len(self.buckets) > self.most:
            self._merge()

    def extend(self, points: Iterable[tuple[float, float | None]]) -> None:
        for x, y in points:
            self.add(x, y)

    def bounds(self, smooth: bool = False) -> tuple[float, float] | None:
        """(lowest, highest) y; of the means only when smoothed."""
        if not self.buckets:
            return None
        if smooth:
            means = [bucket.mean for bucket in self.buckets]
            return min(means), max(means)
        return min(bucket.low for bucket in self.buckets), max(bucket.high for bucket in self.buckets)

    def span(self) -> tuple[float, float] | None:
        """(first, last) x."""
        return (self.buckets[0].first, self.buckets[-1].last) if self.buckets else None

    def columns(self, left: float, right: float, count: int) -> Iterator[tuple[int, Bucket]]:
        """(column, what lies in it) for `count` equal columns of [left, right]; empty columns are left out."""
        width = (right - left) / count if right > left else 1.0
        current: Bucket | None = None
        at = -1
        for bucket in self.buckets:
            middle = (bucket.first + bucket.last) / 2
            if not left <= middle <= right:
                continue
            column = min(count - 1, int((middle - left) / width))
            if current is not None and column == at:
                current.swallow(bucket)
                continue
            if current is not None:
                yield at, current
            at, current = column, Bucket(bucket.first, bucket.last, bucket.low, bucket.high, bucket.total, bucket.count)
        if current is not None:
            yield at, current

    def smoothed(self, weight: float) -> Series:
        """An exponential moving average of the bucket means, corrected for its beginning (as in Adam)."""
        made = Series(self.most)
        average, norm = 0.0, 0.0
        for bucket in self.buckets:
            average = weight * average + (1 - weight) * bucket.mean
            norm = weight * norm + (1 - weight)
            value = average / norm
            made.buckets.append(Bucket(bucket.first, bucket.last, value, value, value, 1))
        made.latest = made.buckets[-1].mean if made.buckets else None
        return made

    def _merge(self) -> None:
        """Halve the buckets."""
        pairs = zip(self.buckets[::2], self.buckets[1::2], strict=False)
        merged = []
        for one, other in pairs:
            one.swallow(other)
            merged.append(one)
        if len(self.buckets) % 2:
            merged.append(self.buckets[-1])
        self.buckets, self.size = merged, self.size * 2

    def _rewind(self, x: float) -> None:
        while self.buckets and self.buckets[-1].last >= x:
            self.buckets.pop()
