"""What is said and kept: frozen values, and the one mutable one, the book of them."""
