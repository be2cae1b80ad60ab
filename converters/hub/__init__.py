"""Models as the Hugging Face hub keeps them: a repository (or a folder of the same files) and what its files say."""
