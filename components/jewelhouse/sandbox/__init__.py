"""The real Pulumi engine against stand-in clouds: nothing needs an account, nothing is sent anywhere."""
