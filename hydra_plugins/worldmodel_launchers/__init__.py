"""hydra/launcher=local and hydra/launcher=ray. Hydra looks for launchers in packages of this folder's name only."""
