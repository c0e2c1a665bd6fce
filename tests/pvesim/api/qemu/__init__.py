"""Virtual machines: what qemu-server does with them. Their disks are on paper, their guest agents real processes."""
