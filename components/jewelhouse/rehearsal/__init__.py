"""Stand-ins for the clouds' relying parties, on loopback: they speak the services' wire protocols to the
unmodified clients, decide by the documents that a stack really has, and believe only a throw-away root."""
