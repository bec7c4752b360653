"""A curve of any length in bounded memory: buckets of neighboring points, merged in pairs when there are too many."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LARGEST = 1e100
"""Values from here on count as not finite: beyond the range of float32, and sums of smaller values stay finite."""
MAX_BUCKETS = 4096
"""Maximum number of buckets: several times the columns of any terminal."""


@dataclass(slots=True)
class Bucket:
    """Neighboring points aggregated into one."""

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
        """Add a point."""
        self.last = x
        if y < self.low:
            self.low = y
        elif y > self.high:
            self.high = y
        self.total += y
        self.count += 1

    def merge(self, other: Bucket) -> None:
        """Add the points of the following bucket."""
        self.last = other.last
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.count += other.count


class Series:
    """y over increasing x. Points that are not finite are counted but not stored, so they never affect the bounds."""

    def __init__(self, most: int = MAX_BUCKETS) -> None:
        self.most = most
        self.buckets: list[Bucket] = []
        self.size = 1
        """Points per full bucket."""
        self.absent = 0
        """Number of points that were not finite."""
        self.latest: float | None = None

    def __len__(self) -> int:
        return sum(bucket.count for bucket in self.buckets)

    def add(self, x: float, y: float | None) -> None:
        """Append a point; one at or before the last x replaces all points from there (a resumed run repeats steps)."""
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

    def bounds(self) -> tuple[float, float] | None:
        """(lowest, highest) y."""
        if not self.buckets:
            return None
        return min(bucket.low for bucket in self.buckets), max(bucket.high for bucket in self.buckets)

    def span(self) -> tuple[float, float] | None:
        """(first, last) x."""
        return (self.buckets[0].first, self.buckets[-1].last) if self.buckets else None

    def at(self, x: float) -> float | None:
        """The mean of the points nearest to x; None without points."""
        if not self.buckets:
            return None
        place = bisect_left(self.buckets, x, key=lambda bucket: bucket.last)
        near = self.buckets[max(0, place - 1) : place + 1]
        return min(near, key=lambda bucket: max(bucket.first - x, x - bucket.last, 0.0)).mean

    def columns(self, left: float, right: float, count: int) -> Iterator[tuple[int, Bucket]]:
        """(column, aggregated points) for `count` equal columns of [left, right]; empty columns are skipped."""
        width = (right - left) / count if right > left else 1.0
        current: Bucket | None = None
        at = -1
        for bucket in self.buckets:
            middle = (bucket.first + bucket.last) / 2
            if not left <= middle <= right:
                continue
            column = min(count - 1, int((middle - left) / width))
            if current is not None and column == at:
                current.merge(bucket)
                continue
            if current is not None:
                yield at, current
            at, current = column, Bucket(bucket.first, bucket.last, bucket.low, bucket.high, bucket.total, bucket.count)
        if current is not None:
            yield at, current

    def smoothed(self, weight: float) -> Series:
        """Exponential moving average of the bucket means with bias correction, as in Adam."""
        smoothed = Series(self.most)
        average, norm = 0.0, 0.0
        for bucket in self.buckets:
            average = weight * average + (1 - weight) * bucket.mean
            norm = weight * norm + (1 - weight)
            value = average / norm
            smoothed.buckets.append(Bucket(bucket.first, bucket.last, value, value, value, 1))
        smoothed.latest = smoothed.buckets[-1].mean if smoothed.buckets else None
        return smoothed

    def _merge(self) -> None:
        """Halve the number of buckets by merging pairs."""
        pairs = zip(self.buckets[::2], self.buckets[1::2], strict=False)
        merged = []
        for one, other in pairs:
            one.merge(other)
            merged.append(one)
        if len(self.buckets) % 2:
            merged.append(self.buckets[-1])
        self.buckets, self.size = merged, self.size * 2

    def _rewind(self, x: float) -> None:
        while self.buckets and self.buckets[-1].last >= x:
            self.buckets.pop()
