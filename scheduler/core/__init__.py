"""The scheduler's core: state machines without I/O. Time comes in as an argument, random numbers come from a seed.

A shell needs `scheduler.Scheduler` only: `handle(event, now) -> list[Instruction]` and `next_deadline()` (`events`,
`settings`). The modules inside, each importing only modules named before it:

- parts that know nothing of swarms: `deadlines`, `story`, `piece_counts`, `inline_blobs`, `settings`, `rng`, `claims`;
- the state of one swarm and its rules: `piece_map`, `members` (hosts, members, pools), `leases`, `graph` (neighbours),
  `gateways` (the members through which pieces enter a site), all of one blob in `swarm`;
- the state of all swarms: `state`;
- the handlers: `tags`, `piece_digests` (lengths, digests, doubt), `membership` (hosts and members enter and leave),
  `seeders` (hosts that hold a whole blob), `quarantine`, `lease_policy` (which host fetches which piece), `join` (the
  reports of hosts about themselves).

State tables: `members.MEMBER_TRANSITIONS`, `leases.LEASE_TRANSITIONS`, `piece_map.MAP_TRANSITIONS`.
"""
