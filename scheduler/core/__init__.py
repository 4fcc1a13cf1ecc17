"""Core: state machines and parsers with no I/O. Time and random numbers come in as arguments.

`scheduler.Scheduler` is all that a shell needs: `handle(event, now) -> list[Instruction]` and `next_deadline()`
(`events`, `settings`). Inside, from the bottom up:

- parts that know nothing of each other: `chance`, `deadlines`, `story`, `contents`, `holdings`, `witnesses`;
- state with its rules: `members` (hosts, memberships, bags), `graph` (neighbours), `gateways` (through whom pieces
  enter a site), `piece_map`, `leases`, all of one blob in `swarm`, and all of everything in `cluster`;
- what is done with it: `membership` (in and out), `maps` (lengths and digests, doubt), `wholes` (holders of all of a
  blob), `leasing` (who fetches what), `joining` (what hosts say of themselves), `quarantine`, `tags`.

States are tables: `members.MEMBER_TRANSITIONS`, `leases.LEASE_TRANSITIONS`, `piece_map.MAP_TRANSITIONS`.
"""
