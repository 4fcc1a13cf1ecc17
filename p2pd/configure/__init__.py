"""`p2pd configure`: point a container runtime at the mirror, and undo that exactly.

    runtime.py     the interface of a runtime's module: a pure function from the present files to the wanted files
    docker.py, containerd.py, registries_conf.py (podman and CRI-O), buildkit.py, k3s.py: a module for each runtime
    hosts_toml.py, toml_file.py, json_file.py: the files that several runtimes read, and changes to an operator's files
    tree.py        the seam to the disk: atomic writes below a root
    journal.py     the bytes of each file before p2pd's change
    removal.py     p2pd's part of a file that others have rewritten since, by what the file says
    plan.py        all changes or none, and the undoing of them
    dockerd.py     the running dockerd, which reads its file again on a signal

No runtime is ever restarted: the operator chooses the time. The output names the runtimes that need a restart.
"""
