"""The rules of the stand-in clouds: ids, default outputs, refusals; one module a cloud."""
