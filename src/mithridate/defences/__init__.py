"""What a defender does about poison."""
