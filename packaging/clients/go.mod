module pveexec

go 1.19
