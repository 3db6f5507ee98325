"""Which machines carry which TEE where: tables with source and date, and what they say about a stage."""
