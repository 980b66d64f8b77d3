"""Ways of comparing a picture with a condition picture; each kind names its own."""
