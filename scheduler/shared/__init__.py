"""What several schedulers share: the list of those that live, and what must outlive any one of them. In Redis.

`live_list` decides and does no I/O; `live` keeps a scheduler on the list. Nothing here is loaded without `--redis`, but
for `redis_url`, which the settings parse with.
"""
