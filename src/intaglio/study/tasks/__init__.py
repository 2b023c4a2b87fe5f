"""What is learned and drawn: tasks with known truth, built from open packages or read from DreamBooth's set."""
