"""What calls a onecard server; usable without the serving stack."""
