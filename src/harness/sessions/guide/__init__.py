"""What people and agents read about working with sessions: a guide, recipes, and skills that teach agents the command line."""
