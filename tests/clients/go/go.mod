module clients

go 1.19

require pveexec v0.0.0

replace pveexec => ../../../build/clients/go
