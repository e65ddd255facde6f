"""A teacher on disk: two floats a token, written once by any number of ranks.

ALM needs of a teacher only the log-prob of each token and of a boundary after it. A cache holds
both for the rows of a run, in shards of equally many rows in the order of the data's first pass, so
that a row's place in the data is its place in the cache. Files: ``meta.json`` (``meta.py``), and a
safetensors file for each shard (``shards.py``).
"""

from tokenkit.training.teacher_cache.reading import CachedTeacher, TeacherScores
from tokenkit.training.teacher_cache.writing import CacheWriter

__all__ = ["CacheWriter", "CachedTeacher", "TeacherScores"]
