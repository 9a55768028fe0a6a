"""What a run needs, looked at piece by piece: on this machine, and on the cluster where there is one."""
