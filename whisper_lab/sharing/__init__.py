"""A finished model for others: its card, its licences, the Hugging Face Hub, registries."""
