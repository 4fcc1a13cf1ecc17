"""Core: state machines and parsers with no I/O. Time and random numbers come in as arguments.

`scheduler.Scheduler` is all that a shell needs: `handle(event, now) -> list[Instruction]` and `next_deadline()`
(`events`, `settings`). Inside, from the bottom up:

- parts that know nothing of each other: `rng`, `deadlines`, `story`, `inline_blobs`, `piece_counts`, `claims`;
- state with its rules: `members` (hosts, memberships, pools), `graph` (neighbours), `gateways` (through whom pieces
  enter a site), `piece_map`, `leases`, all of one blob in `swarm`, and all of everything in `state`;
- what is done with it: `membership` (in and out), `piece_digests` (lengths and digests, doubt), `seeders` (holders of
  all of a blob), `lease_policy` (who fetches what), `join` (what hosts say of themselves), `quarantine`, `tags`.

States are tables: `members.MEMBER_TRANSITIONS`, `leases.LEASE_TRANSITIONS`, `piece_map.MAP_TRANSITIONS`.
"""
