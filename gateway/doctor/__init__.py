"""What must hold on a node for commands to run, proved one thing after the other: `pve-exec-gateway doctor`."""
