"""A split decoded fast, its error rates with their uncertainty, and the pages and pictures that show them."""
