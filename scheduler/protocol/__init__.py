"""The protocol between a host and the scheduler, and between two neighbours.

A host keeps a WebSocket to each scheduler at which it has blobs. Each binary frame is one message (`codec`). One
pull, in order::

    host                                    scheduler
     | Hello(versions, address, labels)  -->  |   the first frame, within seconds
     | <-- Welcome(version, progress_s)       |   or the scheduler closes the connection (`connection`)
     | <-- Schedulers(those that live)        |   if it is one of several; again at each change
     | Announce(blobs in its store)      -->  |   so that a restarted scheduler knows every holder again
     |                                        |
     | Need(pieces)                      -->  |   only if the host's client waits for these pieces first
     | Join(blob, repository, size)      -->  |   only after the host's client was authorised there
     | <-- InlineBlob                         |   a tiny blob that the scheduler has: the pull ends here
     | <-- Joined(neighbours, size)           |   any other blob: the neighbours to exchange pieces with
     | <-- PieceDigests                       |   the known part of the piece map; more as the map grows
     | <-- Lease(pieces)                      |   to some hosts, so that each piece leaves the origin once
     | Length                            -->  |   if the length was unknown; the scheduler sends Sized to all
     | LeasePieces(digests)              -->  |   for each piece that lands; the scheduler sends all PieceDigests
     | <-- SpotCheck(bytes of a piece)        |   to some hosts: is what a new publisher says what the origin has?
     | SpotChecked(right|wrong)          -->  |   once the host holds the piece
     | LeaseEnded(failed|refused|…)      -->  |   or: another host gets the rest; refused: OriginRefused
     | Progress(all held pieces)         -->  |   at most every `progress_s`
     | <-- Neighbours(add, remove)            |   as hosts join, leave, and fail
     | NeighbourFailed, Corrupt          -->  |   the scheduler replaces the neighbour at once
     | Sealed                            -->  |   the blob's SHA-256 is right: the host stays as a seeder
     | Disproved                         -->  |   it is wrong: Reset to all, and the map is fetched again (below)
     | Leave(blob) ... Bye               -->  |

A tiny blob (64 KiB or less) is fetched under a lease like any other blob, but its holder sends InlineBlob. The
scheduler checks the blob against its digest and sends it to every waiting member. A tiny blob needs no neighbours.

A tag, while its origin is gone: a host that never asked for the tag sends TagLookup. The scheduler sends TagQuery to
all hosts, each answers with TagAnswer what its own origin told it last, and TagResult has what most of them were told.
While the origin is there, no host asks another: a tag is the origin's to say.

A preheat, to hosts with the feature `preheat`: Preheat names images that the host is to have before clients ask; the
host sends PreheatReport now and then and at its end. Preheat may come again, PreheatEnded takes it back.

**Several schedulers.** Each blob is at one of them, the owner by `rendezvous` among those that live, and all messages
about it go there. A host that loses a scheduler, or hears of another list, announces and joins what has moved at the
new owner (Join has `moved`), and sends Leave to the old one some seconds later. Where no scheduler sends a list, hosts
divide blobs among the URLs that they were given, which are the ids then. TagLookup goes to all that are connected;
schedulers that share Redis each answer it by the words of all hosts (`scheduler.core.tags`).

A pull, to schedulers with the feature `pulls`: Pulled says which tag a client of the host has pulled. Nothing is
answered.

**Pieces.** The length of a blob's pieces follows from its size (`geometry`), unless Joined says another one: a shorter
one, as a large swarm has it whose hosts all have the feature `piece-length`, or a longer one, as a blob has that is
pulled together with others where all have `long-pieces`. A swarm divides a blob as its first holder has, and keeps to
that. A host that has divided it otherwise, or knows no other length than the usual one, gets it from the
origin, and may hold it whole for others: bytes have no pieces.

**Trust.** The credentials of clients never travel here: a host fetches under a lease with the credentials of its own
client. Those that an operator gives with a preheat travel in Preheat, to the hosts that are to fetch. A host may join
(upstream, repository, digest) only after the origin has authorised its own client; the scheduler believes the host. A
swarm is keyed by the digest alone: hosts that pull the same blob from different registries are in one swarm. The
scheduler tells the expected digest of each piece, as reported by the host that fetched the piece from the origin, and
for a new publisher only after SpotCheck (`scheduler.core.spot_checks`). If the blob's SHA-256 then fails, two hosts
must report the same digest (`scheduler.core.piece_map`).

**Versions.** Hello has the range of versions that the host speaks and the names of its features. Within a version,
fields and message types are only ever added, and a reader ignores unknown fields and types (`codec`). A feature's name
says that the other end knows them. So newer and older hosts share a cluster during a rolling upgrade. If the two ends
have no version in common, the connection is closed as INCOMPATIBLE.
"""
