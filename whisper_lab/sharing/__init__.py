"""A finished model on the Hugging Face Hub: its card, its licences, the push."""
