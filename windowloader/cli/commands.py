"""Commands, one a module, which adds itself to `app` as it is imported."""

from . import bench, cache, convert, demo, inspect, plan, preview, stats, warmup
from .common import app

__all__ = ["app", "bench", "cache", "convert", "demo", "inspect", "plan", "preview", "stats", "warmup"]
