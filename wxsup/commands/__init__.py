"""The commands, by what they are about; each is a few lines over a module that does the work."""
