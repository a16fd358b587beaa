"""Fine-tuning: recipes, optimisers, the trainer, runs that resume, studies of optimisers."""
