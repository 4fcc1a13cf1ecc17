"""Trust: the cluster's certificate authority, join tokens, certificates, and TLS between hosts and scheduler.

Rules:
1. A member of the cluster is its certificate. The one URI in it says the cluster, the role and the host id
   (`identity`), and nothing that is said on the wire is believed against it.
2. The authority is the scheduler, and it issues to a role of its own choosing: of a request it takes the public key and
   nothing else (`certificates`). So a certificate with the scheduler's URI is the scheduler's.
3. Names in DNS are not compared. They would say by which address a peer was reached. The role says who it is, and that
   is enough, because the CA is private and issues no certificate for anything else. So a scheduler is reached by any
   URL, and a host by any address.
4. `identity`, `token` and `certificates` do no I/O and read no clock. Files, SQLite and TLS are beside them.
"""
