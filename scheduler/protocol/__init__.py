"""The protocol between a host and the scheduler, and between two neighbours.

A host keeps one WebSocket to the scheduler; each binary frame is one message (`codec`). One pull, in order::

    host                                    scheduler
     | Hello(versions, address, labels)  -->  |   the first frame, within seconds
     | <-- Welcome(version, progress_s)       |   or the connection is closed (`connection`)
     | Announce(what its store holds)    -->  |   so that a scheduler which restarted knows everything again
     |                                        |
     | Need(pieces)                      -->  |   only if its client waits for some of them before all others
     | Join(blob, repository, size)      -->  |   only after its own client was authorised there
     | <-- Content                            |   a tiny blob that the scheduler has: that was all
     | <-- Joined(neighbours, size)           |   otherwise: whom to exchange pieces with
     | <-- PieceDigests                       |   what is known of the piece map; more as it grows
     | <-- Lease(pieces)                      |   to some hosts, so that each piece leaves the origin once
     | Length                            -->  |   only if nobody knew it: the scheduler tells all (Sized)
     | LeasePieces(digests)              -->  |   for each piece as it lands: the scheduler tells all (PieceDigests)
     | LeaseEnded(failed|refused|…)      -->  |   or so: another host gets the rest; refused: OriginRefused
     | Progress(all that it holds)       -->  |   coarsely
     | <-- Neighbours(add, remove)            |   as hosts join, leave, and fail
     | NeighbourFailed, Corrupt          -->  |   another neighbour in its place, at once
     | Sealed                            -->  |   the blob's SHA-256 is right: the host stays as a holder
     | Disproved                         -->  |   it is wrong: Reset to all, and the map is fetched again (below)
     | Leave(blob) ... Bye               -->  |

A tiny blob (64 KiB or less) is fetched under a lease like any other, but its holder sends Content; the scheduler
checks it against the digest and sends it to everybody who waits. Such a blob has no neighbours.

A tag: TagLookup from many hosts; TagResolve to one of them; its TagAnswer becomes TagResult to all. A host whose
credentials the origin refused gets that answer for itself only, and the next that waits is told to resolve.

**Trust.** Clients' credentials never travel here: a host fetches under a lease with what its own client gave it. A host
may join (upstream, repository, digest) only after the origin let its own client have it; the scheduler takes its word.
Swarms are keyed by digest alone: hosts that got the same blob from different registries are in one swarm. What a
piece must be is told by the scheduler, on the word of the host that fetched it from the origin; if the blob's SHA-256
then fails, on the word of two (`scheduler.core.piece_map`).

**Versions.** Hello has the range of versions that the host speaks and the names of the features that it has. Within a
version, fields and message types are only ever added, and a reader ignores those that it does not know (`codec`); a
feature's name tells that the other end knows them. So newer and older hosts share a cluster during a rolling upgrade.
If there is no version in common, the connection is closed as INCOMPATIBLE.
"""
